/* test_rwkv.cu: the tests of everything, see tests/.   ./test_rwkv [words in the name of a test] */
#define TESTING
#include "train_rwkv.cu"
#include "tests/rwkv4.h"
#include "tests/gemm.h"

int main(int argc, char **argv) { return run_tests(argc > 1 ? argv[1] : ""); }
