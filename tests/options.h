/* tests/options.h: the option table. */
#pragma once
#include "test.h"
#include "../rwkv/options.h"

struct SomeOptions {
    int64_t n;
    double x;
    std::string word, text;
    bool flag;
    Options options{"program", "does something", {
        {"n", &n, 16, 1, 100, "a number"}, {"x", &x, 0.5, 0, 1, "a share"}, {"word", &word, "red", "red|blue", "a colour"},
        {"text", &text, "", "", "any text"}, {"flag", &flag, "a switch"}}};
    void parse(std::vector<std::string> words) {
        std::vector<char *> argv = {(char *)"program"};
        for (std::string &w : words) argv.push_back(w.data());
        options.parse(argv.size(), argv.data());
    }
};
TEST("options: defaults, both spellings, every type") {
    SomeOptions o;
    o.parse({});
    CHECK(o.n == 16 && o.x == 0.5 && o.word == "red" && o.text.empty() && !o.flag && !o.options.given("n"), "defaults");
    o.parse({"--n", "7", "--x=0.25", "--word", "blue", "--text", "--odd one", "--flag"});
    CHECK(o.n == 7 && o.x == 0.25 && o.word == "blue" && o.text == "--odd one" && o.flag && o.options.given("n"), "given");
    CHECK(o.options.find("x")->text() == "0.25" && o.options.find("flag")->text() == "on", "as text");
}
TEST("options: what is wrong is named, with what would be right") {
    struct { std::vector<std::string> words; const char *says; } bad[] = {
        {{"--m", "3"}, "no option --m"}, {{"n"}, "'n' is not an option"}, {{"--n"}, "--n needs a value"}, {{"--n", "3x"}, "whole number, not '3x'"},
        {{"--n", ""}, "whole number"}, {{"--n", "101"}, "from 1 to 100"}, {{"--n", "99999999999999999999"}, "from 1 to 100"}, {{"--n=-1"}, "from 1 to 100"},
        {{"--x", "nan"}, "takes a number"}, {{"--x", "1.5"}, "from 0 to 1"}, {{"--word", "green"}, "one of red|blue"}, {{"--word", "red|blue"}, "one of"},
        {{"--flag=1"}, "takes no value"}, {{"--n", "1", "--n", "2"}, "given twice"}};
    for (auto &b : bad) {
        SomeOptions o;
        CHECK_ERROR(o.parse(b.words), b.says);
    }
}
