/* data_prep/tasks.cpp: endless examples of tasks that need a memory, as text, one example a line.

       ./tasks reverse --digits 12 --examples 100000 --seed 1 --out reverse.txt
       ./tasks recall --pairs 8 --keys 64 --values 26 --examples 100000 --seed 1 --out recall.txt

   reverse   3817=7183        a string of 1 to --digits digits, and backwards
   recall    一c丂a;丂a丂a一c丂a   1 to --pairs pairs of a key and a value, then twice as many questions: one of the keys, its value

   Keys are Chinese characters from U+4E00 on, values letters, so that with --tokenizer char each is one token; no two keys
   of a line are alike. What follows '=', and every second token that follows ';', can be known, all else is random.
   dev/tasks/ trains on these and counts right answers. Lengths are evenly spread: a model learns the short ones first.
   defines: main */
#include "../rwkv/file.h"
#include "../rwkv/options.h"
#include "../rwkv/rng.h"
#include "../rwkv/utf8.h"

static std::string reverse_line(Rng &rng, int64_t digits) {
    std::string s(1 + rng.below(digits), '0');
    for (char &c : s) c += rng.below(10);
    return s + "=" + std::string(s.rbegin(), s.rend()) + "\n";
}

static std::string recall_line(Rng &rng, int64_t pairs, std::vector<uint32_t> &keys, int64_t values) {
    size_t n = 1 + rng.below(pairs);
    for (size_t i = 0; i < n; i++) std::swap(keys[i], keys[i + rng.below(keys.size() - i)]);  // the first n: a random choice
    struct Pair { std::string key; char value; };
    std::vector<Pair> all(n);
    std::string line;
    for (size_t i = 0; i < n; i++) {
        utf8_append(all[i].key, keys[i]);
        int64_t v = rng.below(values);
        all[i].value = v < 26 ? 'a' + v : 'A' + v - 26;
        line += all[i].key + all[i].value;
    }
    line += ';';
    for (size_t i = 0; i < 2 * n; i++) {
        const Pair &p = all[rng.below(n)];
        line += p.key + p.value;
    }
    return line + '\n';
}

int main(int argc, char **argv) {
    return run_main([&] {
        int64_t examples, seed, digits, pairs, keys, values;
        std::string out;
        Options options("tasks", "writes examples of a task, one a line: ./tasks reverse|recall --out FILE.txt", {
            {"out", &out, "", "", "file to write"},
            {"examples", &examples, 100000, 1, 1e10, "lines"},
            {"seed", &seed, 1, 0, 9e15, "the same seed gives the same text"},
            {"digits", &digits, 12, 1, 10000, "reverse: the longest string"},
            {"pairs", &pairs, 8, 1, 10000, "recall: pairs in a line, at most"},
            {"keys", &keys, 64, 1, 20000, "recall: different keys"},
            {"values", &values, 26, 2, 52, "recall: different values"},
        });
        options.takes_words = true;
        options.parse(argc, argv);
        std::string task = options.words.size() == 1 ? options.words[0] : "";
        if (task != "reverse" && task != "recall") usage_fail("name one task, reverse or recall: ./tasks reverse --out data/reverse.txt");
        for (const char *name : {"digits", "pairs", "keys", "values"})
            if (options.given(name) && (task == "reverse") != !strcmp(name, "digits")) usage_fail("--%s has no meaning for the task %s: leave it out", name, task.c_str());
        if (out.empty()) usage_fail("--out is missing: say where to write, such as --out data/%s.txt", task.c_str());
        if (keys < pairs) usage_fail("--keys is %lld, but a line may have --pairs %lld different ones: raise it", (long long)keys, (long long)pairs);
        make_directory_of(out);
        OutputFile file(out);
        Rng rng{(uint64_t)seed, 0, 0};
        std::vector<uint32_t> alphabet(keys);
        for (int64_t i = 0; i < keys; i++) alphabet[i] = 0x4E00 + i;
        std::string text;
        for (int64_t i = 0; i < examples; i++) {
            text += task == "reverse" ? reverse_line(rng, digits) : recall_line(rng, pairs, alphabet, values);
            if (text.size() < 1 << 20 && i + 1 < examples) continue;
            file.write(text.data(), text.size());
            text.clear();
        }
        file.commit();
        return 0;
    });
}
