/* rwkv/schedule.h: the learning rate of a step.

   Steps count from 0 to steps-1. The first `warmup` of them rise in equal parts, lr/warmup to lr. Then
   progress p goes from 0 (the first step after the warm-up) to 1 (the last step), and with f = lr_final/lr

       cosine       lr ((1+f)/2 + (1-f)/2 cos(pi p))
       exponential  lr f^p                              (linear where lr or lr_final is 0)
       linear       lr (1 + (f-1) p)
       constant     lr
       wsd          lr, then linear to lr_final over the last 20 % (warm-up, stable, decay)

   all of which begin at lr and, but for constant, end at lr_final. A run of one step uses lr.
   defines: SCHEDULES, Schedule, learning_rate */
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>

#define SCHEDULES "cosine|exponential|linear|constant|wsd"

struct Schedule {
    std::string kind = "cosine";
    double lr = 0, lr_final = 0;
    int64_t warmup = 0, steps = 1;
};

inline double learning_rate(const Schedule &s, int64_t step) {
    if (step < s.warmup) return s.lr * (step + 1) / s.warmup;
    int64_t falling = s.steps - 1 - s.warmup;
    double p = falling > 0 ? std::min(1.0, (double)(step - s.warmup) / falling) : 0;
    if (s.kind == "constant") return s.lr;
    if (s.kind == "exponential" && s.lr > 0 && s.lr_final > 0) return s.lr * pow(s.lr_final / s.lr, p);
    double left = 1 - p;  // share of lr - lr_final still there
    if (s.kind == "cosine") left = (1 + cos(3.141592653589793 * p)) / 2;
    if (s.kind == "wsd") left = std::min(1.0, (1 - p) / 0.2);
    return s.lr_final + (s.lr - s.lr_final) * left;
}
