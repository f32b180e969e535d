/* tests/tools.h: the programs plot and stories, run as a user runs them. */
#pragma once
#include "log.h"
#include <sys/wait.h>

struct Ran { int rc; std::string said; };  // exit code; stdout and stderr together
static Ran run_tool(const std::string &name, const std::string &arguments) {
    std::string program = !access(("./" + name).c_str(), X_OK) ? "./" + name : "build/" + name;
    if (access(program.c_str(), X_OK)) SKIP(name + " is not built");
    FILE *pipe = popen((program + " " + arguments + " 2>&1").c_str(), "r");
    Ran r{-1, ""};
    char buffer[4096];
    for (size_t n; (n = fread(buffer, 1, sizeof(buffer), pipe)) > 0;) r.said.append(buffer, n);
    int status = pclose(pipe);
    r.rc = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return r;
}

TEST("stories: the seed decides the text, and a longer text begins with the shorter one") {
    Ran a = run_tool("stories", "--bytes 50000 --seed 7"), b = run_tool("stories", "--bytes 200000 --seed 7"), c = run_tool("stories", "--bytes 50000 --seed 8");
    CHECK(a.rc == 0 && a.said.size() >= 50000 && a.said.size() < 55000, "%d bytes", (int)a.said.size());
    CHECK(b.said.compare(0, a.said.size(), a.said) == 0, "the shorter text is not the beginning of the longer one");
    CHECK(a.said != c.said, "seeds 7 and 8 tell the same");
}
TEST("stories: plain ASCII, no hole left open, an before vowels, two blank lines after each") {
    std::string t = run_tool("stories", "--bytes 1000000 --seed 3").said;
    int stories = 0;
    for (size_t i = 0; i < t.size(); i++) {
        CHECK((t[i] == '\n' || (t[i] >= 32 && t[i] < 127)) && !strchr("{}[]|", t[i]), "byte %d at %d: %s", t[i], (int)i, t.substr(i < 40 ? 0 : i - 40, 80).c_str());
        bool article = i > 0 && strchr(" \"\n", t[i - 1]) && (t[i] == 'a' || t[i] == 'A') && t[i + 1] == ' ';
        CHECK(!(article && strchr("aeiou", t[i + 2])), "%s", t.substr(i, 40).c_str());
        CHECK(t.compare(i, 2, "  ") && t.compare(i, 4, "\n\n\n\n"), "two spaces or too many lines at %d", (int)i);
        stories += !t.compare(i, 3, "\n\n\n");
    }
    CHECK(stories > 600 && t.substr(t.size() - 3) == "\n\n\n", "%d stories", stories);
}
TEST("plot: an SVG for light and dark pages, with everything escaped") {
    LogFolder folder;
    std::string log = "{\"program\":\"x\"}\n", path = folder("r<&>.jsonl");
    for (int i = 1; i <= 50; i++) log += format("{\"step\":%d,\"tokens\":%d,\"loss\":%s,\"ms\":10}\n", i, 64 * i, i == 7 ? "null" : format("%g", 1 + 3.0 / i).c_str());
    write_text(path, log + "{\"step\":50,\"val_loss\":1.2}\n{\"step\":51,\"los");
    for (const char *axis : {"steps", "tokens", "seconds --log-x --log-y"}) {
        Ran r = run_tool("plot", "'" + path + "' --x " + axis + " --title 'a <b> & \"c\"' --out " + folder("o.svg"));
        std::string s = text_of(folder("o.svg"));
        CHECK(r.rc == 0 && r.said.find("1 line without a finite loss left out") != std::string::npos, "%s", r.said.c_str());
        CHECK(s.find("prefers-color-scheme:dark") != std::string::npos && s.find("a &lt;b&gt; &amp; &quot;c&quot;") != std::string::npos, "style or title");
        CHECK(s.find("r&lt;&amp;&gt;: train 1.0") != std::string::npos && s.find("val 1.200") != std::string::npos, "legend");
        CHECK(s.find("nan") == std::string::npos && s.find("inf") == std::string::npos && s.substr(s.size() - 7) == "</svg>\n", "not finite");
    }
}
TEST("plot: braille where the locale is UTF-8, ASCII elsewhere, never wider than 80 columns") {
    LogFolder folder;
    std::string log;
    for (int i = 1; i <= 300; i++) log += format("{\"step\":%d,\"loss\":%g}\n", i, 1 + 300.0 / i);
    write_text(folder("run.jsonl"), log);
    setenv("LC_ALL", "C", 1);
    std::string ascii = run_tool("plot", folder("run.jsonl")).said;
    setenv("LC_ALL", "C.UTF-8", 1);
    std::string braille = run_tool("plot", folder("run.jsonl")).said;
    unsetenv("LC_ALL");
    CHECK(std::all_of(ascii.begin(), ascii.end(), [](unsigned char c) { return c < 128; }) && ascii.find('*') != std::string::npos, "%s", ascii.c_str());
    CHECK(utf8_bad_byte(braille) == std::string::npos && braille.find("\xe2\xa0") != std::string::npos, "%s", braille.c_str());
    size_t column = 0;
    for (unsigned char c : braille + ascii) {
        column = c == '\n' ? 0 : column + ((c & 0xC0) != 0x80);
        CHECK(column <= 80 + folder.path.size(), "a line is wider than 80 columns");  // the legend names the file
    }
}
TEST("plot: what is no log is a sentence") {
    LogFolder folder;
    write_text(folder("options"), "{\"program\":\"x\"}\n");
    write_text(folder("text"), "hello\n");
    write_text(folder("empty"), "");
    write_text(folder("half"), "{\"step\":1,\"lo");
    write_text(folder("rubbish"), "{\"step\":1,\"loss\":2}\nrubbish\n{\"step\":2,\"loss\":2}\n");
    write_text(folder("nan"), "{\"step\":1,\"loss\":NaN}\n");
    struct { std::string file; const char *says; int rc; } rows[] = {
        {folder("options"), "options has no step with a loss", 1}, {folder("text"), "text line 1 is no JSON object", 1}, {folder("empty"), "empty has no step", 1},
        {folder("half"), "half line 1 is no JSON", 1}, {folder("rubbish"), "rubbish line 2", 1}, {folder("nan"), "nan line 1", 1},
        {folder("missing"), "missing cannot be opened", 1}, {folder.path, "is a folder", 1}, {"", "plot needs a log", 2},
        {folder("rubbish") + " --x miles", "--x is 'miles'", 2},
    };
    for (auto &r : rows) {
        Ran got = run_tool("plot", r.file);
        CHECK(got.rc == r.rc && got.said.find(r.says) != std::string::npos && std::count(got.said.begin(), got.said.end(), '\n') == 1, "%s: exit code %d, %s", r.says, got.rc, got.said.c_str());
    }
}
