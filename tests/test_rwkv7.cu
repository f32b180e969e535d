/* tests/test_rwkv7.cu: the tests of train_rwkv7.cu.   ./test_rwkv7 [words in the name of a test] */
#define TESTING
#include "train_rwkv7.cu"
#include "tests/finetune.h"
#include "tests/rwkv7.h"
#include "tests/wkv7.h"

#ifdef PRECISION_FP64
TEST("rwkv7: gradients of LoRA = finite differences") { test_lora_gradients<RWKV7>(rwkv7_shape, rwkv7_small); }
TEST("rwkv7: the gradient of a tuned initial state = finite differences") { test_tuned_state_gradients<RWKV7>(rwkv7_shape, rwkv7_small); }
#endif

int main(int argc, char **argv) { return run_tests(argc > 1 ? argv[1] : ""); }
