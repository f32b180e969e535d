# Three things in a preprocessed CUDA source that C++ lacks or takes in another sense, rewritten line by line.
# 1. kernel<targs><<<config>>>(args)  ->  cuda_cpu::launch("kernel", [=](auto... a) { kernel<targs>(a...); }, config)(args)
#    Name and <<< stand on one line, the rest may go over several; template arguments nest two levels.
/[A-Za-z0-9_>][ ]*<<</ {
:more
/>>>[[:space:]]*[^[:space:]]/! {
$! {
N
b more
}
}
s/([A-Za-z_][A-Za-z0-9_:.]*)((<([^<>;]|<[^<>;]*>)*>)?)[ ]*<<<(([^>]|>[^>]|>>[^>])*)>>>([[:space:]]*\()/cuda_cpu::launch("\1", [=](auto... cuda_cpu_a) { \1\2(cuda_cpu_a...); }, \5)\7/g
}
# 2. extern __shared__ T x[];  ->  T *x = cuda_cpu::dynamic_smem<T>();   (__shared__ has been expanded)
s/extern +static (thread_local )?((__attribute__\(\(aligned\([^()]*\)\)\)|alignas\([^()]*\)) *)?([A-Za-z_][A-Za-z0-9_:<> *]*[ *>])([A-Za-z_][A-Za-z0-9_]*)\[\] *;/\4 *\5 = cuda_cpu::dynamic_smem<\4>();/
# 3. Types of kernel arguments are deduced, so NULL must be a pointer.
s/\b__null\b/nullptr/g
