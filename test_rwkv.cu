/* test_rwkv.cu: the tests of train_rwkv.cu and of what all models share, see tests/.   ./test_rwkv [words in the name of a test] */
#define TESTING
#include "train_rwkv.cu"
#include "tests/finetune.h"
#include "tests/rwkv4.h"
#include "tests/gemm.h"

#ifdef PRECISION_FP64
TEST("rwkv4: gradients of LoRA = finite differences") { test_lora_gradients<RWKV4>({11, 24, 40, 2}); }
#endif

int main(int argc, char **argv) { return run_tests(argc > 1 ? argv[1] : ""); }
