/* rwkv/options.h: one table of options drives the parser, --help, validation and the echo at start.
   Host only.

       Options options("train_rwkv", "trains RWKV-4", {
           {"batch", &o.batch, 16, 1, 65536, "sequences per step (B)"},
           {"schedule", &o.schedule, "cosine", "cosine|linear|constant", "how the learning rate falls"},
           {"train", &o.train, "", "", "shard to train on"},       // "" as choices: any text
           {"resume", &o.resume, "go on from the last checkpoint in --out"},     // bool: a flag
       });
       options.parse(argc, argv);      // throws Usage; --help prints and exits 0

   Both `--batch 16` and `--batch=16` are accepted.   defines: Option, Options */
#pragma once
#include "check.h"
#include <cerrno>
#include <climits>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

struct Option {
    enum Type { FLAG, INT, REAL, TEXT } type;
    const char *name;         // without the dashes
    void *variable;           // bool, int64_t, double or std::string
    std::string fallback;     // the default, as text
    double min = 0, max = 0;  // INT and REAL
    const char *choices = ""; // TEXT: "a|b|c", or "" for any text
    const char *help;
    bool given = false;       // on the command line

    Option(const char *name, bool *v, const char *help) : type(FLAG), name(name), variable(v), fallback("off"), help(help) { *v = false; }
    Option(const char *name, int64_t *v, int64_t def, double min, double max, const char *help)
        : type(INT), name(name), variable(v), fallback(std::to_string(def)), min(min), max(max), help(help) { *v = def; }
    Option(const char *name, double *v, double def, double min, double max, const char *help)
        : type(REAL), name(name), variable(v), fallback(format("%g", def)), min(min), max(max), help(help) { *v = def; }
    Option(const char *name, std::string *v, const char *def, const char *choices, const char *help)
        : type(TEXT), name(name), variable(v), fallback(def), choices(choices), help(help) { *v = def; }

    // Reads the value from its text, which may be text() of another run; throws Usage naming the option, the value and
    // what is allowed.
    void set(const std::string &text) {
        char *end;
        errno = 0;
        if (type == FLAG) *(bool *)variable = text == "on";
        else if (type == INT) {
            long long v = strtoll(text.c_str(), &end, 10);
            if (text.empty() || *end) usage_fail("--%s takes a whole number, not '%s'", name, text.c_str());
            if (errno == ERANGE || v < min || v > max) usage_fail("--%s is %s, but must be from %.0f to %.0f", name, text.c_str(), min, max);
            *(int64_t *)variable = v;
        } else if (type == REAL) {
            double v = strtod(text.c_str(), &end);
            if (text.empty() || *end || std::isnan(v)) usage_fail("--%s takes a number, not '%s'", name, text.c_str());
            if (!(v >= min && v <= max)) usage_fail("--%s is %s, but must be from %g to %g", name, text.c_str(), min, max);
            *(double *)variable = v;
        } else {
            if (*choices && (text.find('|') != text.npos || ("|" + std::string(choices) + "|").find("|" + text + "|") == std::string::npos))
                usage_fail("--%s is '%s', but must be one of %s", name, text.c_str(), choices);
            *(std::string *)variable = text;
        }
    }
    // The value now, as set() reads it.
    std::string text() const {
        return type == FLAG ? (*(bool *)variable ? "on" : "off") : type == INT ? std::to_string(*(int64_t *)variable)
             : type == REAL ? shortest(*(double *)variable) : *(std::string *)variable;
    }
};

struct Options {
    const char *program, *purpose;
    std::vector<Option> table;
    std::vector<std::string> words;  // arguments that are not options
    bool takes_words = false;

    Options(const char *program, const char *purpose, std::vector<Option> table) : program(program), purpose(purpose), table(std::move(table)) {}

    Option *find(const std::string &name) {
        for (Option &o : table) if (name == o.name) return &o;
        return nullptr;
    }
    bool given(const std::string &name) { Option *o = find(name); return o && o->given; }

    void parse(int argc, char **argv) {
        for (int i = 1; i < argc; i++) {
            std::string word = argv[i];
            if (word == "--help" || word == "-h") { help(); exit(0); }
            if (word.size() < 2 || word.compare(0, 2, "--")) {
                if (!takes_words) usage_fail("'%s' is not an option; %s --help lists them", argv[i], program);
                words.push_back(word);
                continue;
            }
            size_t eq = word.find('=');
            Option *o = find(word.substr(2, eq == std::string::npos ? eq : eq - 2));
            if (!o) usage_fail("there is no option %s; %s --help lists them", word.substr(0, eq).c_str(), program);
            if (o->given) usage_fail("--%s is given twice", o->name);
            o->given = true;
            if (o->type == Option::FLAG) {
                if (eq != std::string::npos) usage_fail("--%s is a switch and takes no value", o->name);
                *(bool *)o->variable = true;
            } else if (eq != std::string::npos) o->set(word.substr(eq + 1));
            else if (++i == argc) usage_fail("--%s needs a value: %s", o->name, o->help);
            else if (!strncmp(argv[i], "--", 2) && find(argv[i] + 2)) usage_fail("--%s needs a value before %s; if that is the value, write --%s=%s", o->name, argv[i], o->name, argv[i]);
            else o->set(argv[i]);
        }
    }
    void help() const {
        printf("%s: %s\n\n", program, purpose);
        for (const Option &o : table) {
            std::string name = std::string("--") + o.name + (o.type == Option::INT ? " N" : o.type == Option::REAL ? " X" : o.type == Option::TEXT ? (*o.choices ? " WORD" : " TEXT") : "");
            std::string note = *o.choices ? std::string("; ") + o.choices : "";
            if (o.type != Option::FLAG && !o.fallback.empty()) note += " [" + o.fallback + "]";
            printf("  %-22s %s%s\n", name.c_str(), o.help, note.c_str());
        }
        printf("  %-22s %s\n", "--help", "this list");
    }
    // One line with every option on the command line.
    std::string echo() const {
        std::string s = program;
        for (const Option &o : table) if (o.given) s += std::string(" --") + o.name + (o.type == Option::FLAG ? "" : " " + o.text());
        return s;
    }
};
