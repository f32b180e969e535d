/* rwkv.h: the one include of every model file. Each header is one topic and says at its top what it defines;
   they need only those above them. None of them knows a model. */
#pragma once
#include "rwkv/check.h"         // errors: one sentence, exit code 1 or 2
#include "rwkv/options.h"       // the table of command-line options
#include "rwkv/json.h"          // a small JSON reader
#include "rwkv/threads.h"       // work of the host on all its cores
#include "rwkv/rng.h"           // counter-based random numbers, orthogonal matrices
#include "rwkv/tensor_file.h"   // reading .safetensors and .pth
#include "rwkv/checkpoint.h"    // checkpoints: a pair of safetensors that appears by one rename
#include "rwkv/tokenizer.h"     // byte, char, World, byte-level BPE
#include "rwkv/data.h"          // token shards and the loader
#include "rwkv/sampler.h"       // from logits to a token
#include "rwkv/schedule.h"      // the learning rate of a step
#include "rwkv/log.h"           // JSON lines and the progress line
#include "rwkv/cuda.h"          // floatX, real, Vec, sums over a block, the device
#include "rwkv/tensors.h"       // the table of tensors, the parameter buffers, the arena
#include "rwkv/matmul.h"        // linear layers
#include "rwkv/norm.h"          // LayerNorm, and sums of gradients over rows
#include "rwkv/mix.h"           // LayerNorm + token shift + mixes, relu^2: layers of RWKV-4 and RWKV-7
#include "rwkv/embedding.h"     // token embedding with ln0
#include "rwkv/loss.h"          // head, cross-entropy, L2Wrap
#include "rwkv/adamw.h"         // gradient norm and AdamW
#include "rwkv/finetune.h"      // --tune lora, --tune state
#include "rwkv/train.h"         // the training program
