/* tests/finetune.h: rwkv/finetune.h through a model's own kernels; for every model's test program. */
#pragma once
#include "model.h"

#ifdef PRECISION_FP64
// The gradients of A and B that Adapters makes from those of the merged weights = difference quotients
template<class M> void test_lora_gradients(Shape s, typename M::Config config = {}) {
    Random<M> rig(s, 2, 7, 0, config);
    Parameters ab;
    Adapters lora;
    ab.table = lora.table(rig.p.table, 3);
    Arena arena;
    ab.plan(arena, true), arena.plan("base", &lora.base, rig.p.table.total);
    arena.allocate();
    ab.link(), lora.link(rig.p, ab, 5);
    rig.p.set(rig.host, lora.base);
    std::vector<real> host = ab.initial(1, 0);
    Rng rng{5, 0, 0};
    for (const Tensor &t : ab.table.tensors) for (int64_t i = 0; i < t.count; i++) host[t.offset + i] = rng.normal() * 0.2;  // B, too
    ModelInput in = rig.all();
    auto loss = [&] { return ab.set(host, ab.master), lora.merge(0), rig.loss(in); };
    loss(), rig.zero_grads(), rig.forward(in), rig.backward(in, in.BT(), nullptr, nullptr, 0);
    lora.gradients(0);
    std::vector<real> g = ab.get(ab.grads);
    CHECK(!ab.table.tensors.empty(), "no adapters");
    check_quotients(ab.table, host, g, loss, 5);
}
// The gradient of an initial state that all sequences share = difference quotients
template<class M> void test_tuned_state_gradients(Shape s, typename M::Config config = {}) {
    int B = 3;
    Random<M> rig(s, B, 7, 0, config);
    TunedState where = M::tuned_state(rig.p.table.s);
    Parameters first;
    first.table = TensorTable(M::state_rows(), rig.p.table.s);
    Arena arena;
    first.plan(arena, true);
    arena.allocate();
    first.link();
    CHECK(first.table.count == where.count * s.L, "the table has %lld numbers, the state %lld", (long long)first.table.count, (long long)where.count * s.L);
    DeviceArray<real> state(rig.model->state_count(B)), dstate(rig.model->state_count(B));
    std::vector<real> host(first.table.total);
    Rng rng{5, 0, 0};
    for (const Tensor &t : first.table.tensors) for (int64_t i = 0; i < t.count; i++) host[t.offset + i] = rng.normal() * 0.3;
    ModelInput in = rig.all(state.p);
    auto loss = [&] { return first.set(host, first.master), spread_state(state.p, first.master, where, s.L, B, 0), rig.loss(in); };
    loss(), rig.zero_grads(), rig.forward(in), rig.backward(in, in.BT(), nullptr, dstate.p, 0);
    gather_state(first.grads, dstate.p, where, s.L, B, 0);
    std::vector<real> g = first.get(first.grads);
    check_quotients(first.table, host, g, loss, 20);
    // a file's [layer 1][head 1][key 2][value 5] is S[value 5][key 2] of every sequence
    int N = where.N;
    std::fill(host.begin(), host.end(), real(0)), host[where.count + (1 * N + 2) * N + 5] = 1, loss();
    std::vector<real> all = state.get();
    for (int b = 0; b < B; b++) CHECK(all[(where.all + where.before) * B + b * where.count + (1 * N + 5) * N + 2] == 1, "a tuned state is not transposed");
}
#endif
