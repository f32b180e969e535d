/* tests/test_gpt2.cu: the tests of train_gpt2.cu.   test_gpt2 [words in the name of a test] */
#define TESTING
#include "train_gpt2.cu"
#include "tests/attention.h"
#include "tests/finetune.h"
#include "tests/gpt2.h"

#ifdef PRECISION_FP64
TEST("gpt2: gradients of LoRA = finite differences") { test_lora_gradients<GPT2>({11, 24, 40, 2}); }
#endif

int main(int argc, char **argv) { return run_tests(argc > 1 ? argv[1] : ""); }
