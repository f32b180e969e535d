#include "../cublas.h"
