/* tests/schedule.h: learning-rate schedules at their corners. */
#pragma once
#include "../rwkv/schedule.h"
#include "test.h"
#include <cmath>

static bool same_rate(double a, double b) { return fabs(a - b) <= 1e-12 * fabs(b) + 1e-18; }

TEST("schedule: rises from lr/warmup to lr, starts to fall at lr, ends at lr_final") {
    for (const char *kind : {"cosine", "exponential", "linear", "wsd", "constant"}) {
        Schedule s{kind, 6e-4, 1e-5, 10, 1000};
        CHECK(same_rate(learning_rate(s, 0), 6e-5), "%s: %g at step 0", kind, learning_rate(s, 0));
        CHECK(same_rate(learning_rate(s, 9), 6e-4), "%s: %g at the end of the warm-up", kind, learning_rate(s, 9));
        CHECK(same_rate(learning_rate(s, 10), 6e-4), "%s: %g after the warm-up", kind, learning_rate(s, 10));
        double end = s.kind == "constant" ? 6e-4 : 1e-5;
        CHECK(same_rate(learning_rate(s, 999), end), "%s: %g at the last step", kind, learning_rate(s, 999));
        CHECK(same_rate(learning_rate(s, 5000), end), "%s: %g past the end", kind, learning_rate(s, 5000));
        for (int64_t i = 10; i < 999; i++) CHECK(learning_rate(s, i + 1) <= learning_rate(s, i) * (1 + 1e-12), "%s rises at step %d", kind, (int)i);
    }
}
TEST("schedule: half way down") {
    Schedule s{"", 8e-4, 2e-4, 0, 101};
    struct { const char *kind; int64_t step; double lr; } rows[] = {
        {"cosine", 50, 5e-4},                                  // f = 1/4: (1+f)/2
        {"cosine", 25, 8e-4 * (0.625 + 0.375 * sqrt(0.5))},    // the equation at p = 1/4
        {"exponential", 50, 4e-4},                             // the geometric mean
        {"linear", 50, 5e-4}, {"linear", 25, 6.5e-4}, {"constant", 50, 8e-4},
        {"wsd", 80, 8e-4}, {"wsd", 90, 5e-4}, {"wsd", 95, 3.5e-4},
    };
    for (auto &r : rows) {
        s.kind = r.kind;
        CHECK(same_rate(learning_rate(s, r.step), r.lr), "%s at step %d is %g, not %g", r.kind, (int)r.step, learning_rate(s, r.step), r.lr);
    }
}
TEST("schedule: no warm-up, one step, warm-up longer than the run, end at zero") {
    for (const char *kind : {"cosine", "exponential", "linear", "wsd", "constant"}) {
        CHECK(same_rate(learning_rate({kind, 1e-3, 1e-5, 0, 100}, 0), 1e-3), "%s without warm-up", kind);
        CHECK(same_rate(learning_rate({kind, 1e-3, 1e-5, 0, 1}, 0), 1e-3), "%s with one step", kind);
        CHECK(same_rate(learning_rate({kind, 1e-3, 1e-5, 20, 10}, 9), 5e-4), "%s inside its warm-up", kind);
        if (strcmp(kind, "constant")) CHECK(learning_rate({kind, 1e-3, 0, 0, 100}, 99) == 0, "%s does not reach 0", kind);
    }
    CHECK(same_rate(learning_rate({"exponential", 1e-3, 0, 0, 101}, 50), 5e-4), "exponential to 0 is linear");
}
