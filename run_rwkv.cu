/* run_rwkv.cu: runs RWKV models of every official version (4, 5.1, 5.2, 6, 7), from .pth or .safetensors as they are.

       make && ./run_rwkv generate --model RWKV-x070-World-0.1B.pth --prompt "Once upon a time"
       ./run_rwkv --help;  ./run_rwkv generate --help

   Where to read: run/rwkv4.h ... rwkv7.h, one version each; run/layers.h what they share; run/linear.h products, for one
   token and for many; run/weights.h what a file holds; run/sample.h how the next token is drawn; run/engine.h the engine; and
   one header per sub-command. */
#include "rwkv.h"
#include "run/bench.h"
#include "run/chat.h"
#include "run/convert.h"
#include "run/embed.h"
#include "run/engine.h"
#include "run/eval.h"
#include "run/generate.h"
#include "run/logits.h"

struct Command { const char *name, *purpose; int (*run)(int argc, char **argv); };
static const Command commands[] = {
    {"generate", "text that goes on from a prompt", generate_main},
    {"chat", "a conversation", chat_main},
    {"bench", "how fast a model is here", bench_main},
    {"eval", "bits per byte, LAMBADA, HellaSwag", eval_main},
    {"embed", "a vector for each line of a text", embed_main},
    {"convert", ".pth <-> .safetensors, other types, int8", convert_main},
    {"info", "what a file holds", info_main},
    {"logits", "the logits after every token of a list", logits_main},
};

#ifndef TESTING  // tests include this file
static int run_command(int argc, char **argv) {
    std::string word = argc > 1 ? argv[1] : "";
    if (word.empty() || word == "--help" || word == "-h" || word == "help") {
        FILE *to = word.empty() ? stderr : stdout;
        fprintf(to, "run_rwkv: runs RWKV-4, 5.1, 5.2, 6 and 7 models\n\n");
        for (const Command &c : commands) fprintf(to, "  run_rwkv %-10s %s\n", c.name, c.purpose);
        fprintf(to, "\n  run_rwkv COMMAND --help lists its options\n");
        return word.empty() ? 2 : 0;
    }
    for (const Command &c : commands) {
        if (word != c.name) continue;
        std::string name = "run_rwkv " + word;
        argv[1] = name.data();
        return c.run(argc - 1, argv + 1);
    }
    usage_fail("'%s' is not a command; run_rwkv --help lists them", word.c_str());
}
int main(int argc, char **argv) { return run_main([&] { return run_command(argc, argv); }); }
#endif
