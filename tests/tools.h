/* tests/tools.h: the programs plot and stories, run as a user runs them; what prepare does to files that are there. */
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

static std::string text_between(const std::string &s, const std::string &from, const std::string &to) {
    size_t i = s.find(from), j = i == s.npos ? i : s.find(to, i + from.size());
    return j == s.npos ? "" : s.substr(i + from.size(), j - i - from.size());
}
static std::string names_in(const std::string &folder) {
    std::set<std::string> names;
    for (auto &entry : std::filesystem::directory_iterator(folder)) names.insert(entry.path().filename().string());
    std::string all;
    for (auto &name : names) all += name + " ";
    return all;
}
TEST("prepare: its files appear together; one that is stopped leaves the old ones, one that was killed nothing for good") {
    ScratchDir d;
    put_file(d / "t.txt", std::string(1000, 'a')), put_file(d / "bad.txt", std::string(1000, 'b'));
    run_prepare({d / "t.txt", "--out", d / "o/x"});
    std::string before = file_bytes(d / "o/x_train.bin");
    stop_signal() = SIGTERM;
    CHECK_ERROR(run_prepare({d / "bad.txt", "--out", d / "o/x"}), "stopped by a signal: nothing was written");
    stop_signal() = 0;
    CHECK(with_file_limit(2900, [&] { run_prepare({d / "t.txt", d / "bad.txt", "--out", d / "o/x"}); return true; }), "a full disk");
    CHECK(names_in(d / "o") == "x.tok x_train.bin x_val.bin " && file_bytes(d / "o/x_train.bin") == before, "%s", names_in(d / "o").c_str());
    std::filesystem::create_directory(d / "o/x.tmp");
    for (const char *name : {"x_train.bin", "x_val.bin.tmp", "x_train_000000.bin", "x.tok"}) put_file(d / "o/x.tmp/" + name, "half");
    put_file(d / "o/x_train_000007.bin", "of an earlier run"), put_file(d / "o/x_train_2.bin", "not ours");
    run_prepare({d / "bad.txt", "--out", d / "o/x"});
    CHECK(names_in(d / "o") == "x.tok x_train.bin x_train_2.bin x_val.bin " && file_bytes(d / "o/x_train.bin") != before, "%s", names_in(d / "o").c_str());
    run_prepare({"--tokenizer", "byte", "--out", d / "o/x"});
    CHECK(names_in(d / "o") == "x.tok x_train.bin x_train_2.bin x_val.bin ", "without a text only the .tok is written: %s", names_in(d / "o").c_str());
    std::filesystem::create_directory(d / "o/y.tmp"), put_file(d / "o/y.tmp/mine", "a user's own");
    run_prepare({d / "t.txt", "--out", d / "o/y"});
    CHECK(names_in(d / "o/y.tmp") == "mine ", "a folder that is not ours: %s", names_in(d / "o/y.tmp").c_str());
}
TEST("prepare: two with one --out do not mix their files") {
    ScratchDir d;
    put_file(d / "t.txt", std::string(1000, 'a'));
    {
        Output other(d / "x");
        CHECK_ERROR(run_prepare({d / "t.txt", "--out", d / "x"}), "another ./prepare is writing " + (d / "x") + ": wait");
        run_prepare({d / "t.txt", "--out", d / "y"});
    }
    run_prepare({d / "t.txt", "--out", d / "x"});
    CHECK(names_in(d.path) == "t.txt x.tok x_train.bin x_val.bin y.tok y_train.bin y_val.bin ", "%s", names_in(d.path).c_str());
}

TEST("prepare: a vocabulary, a text and a validation text that are needed are not replaced") {
    ScratchDir d;
    auto refused = [&](std::vector<std::string> words, const std::string &says) {
        std::string tok = file_bytes(d / "x.tok"), train = file_bytes(d / "x_train.bin"), val = file_bytes(d / "x_val.bin"), names = names_in(d.path);
        words.push_back("--out"), words.push_back(d / "x");
        CHECK_ERROR(run_prepare(words), says);
        CHECK(file_bytes(d / "x.tok") == tok && file_bytes(d / "x_train.bin") == train && file_bytes(d / "x_val.bin") == val && names_in(d.path) == names, "something was written");
    };
    put_file(d / "a.txt", std::string(100, 'a') + "bc"), put_file(d / "b.txt", std::string(100, 'b') + "ac"), put_file(d / "c.txt", std::string(100, 'b'));
    run_prepare({d / "a.txt", "--tokenizer", "char", "--out", d / "x"});
    run_prepare({d / "b.txt", "--tokenizer", "char", "--out", d / "x"});  // the same characters
    run_prepare({d / "c.txt", "--tokenizer-file", d / "x.tok", "--out", d / "x"});
    refused({d / "c.txt", "--tokenizer", "char"}, d / "x.tok is there and has another vocabulary, which models that were trained with it need: name another --out");
    refused({"--tokenizer", "byte"}, "has another vocabulary");
    refused({d / "b.txt", "--tokenizer", "char", "--val", "0"}, "--val 0 makes no validation text, and there is one of an earlier text: name another --out, or remove " + (d / "x_val.bin"));
    std::filesystem::remove(d / "x_val.bin");
    put_file(d / "x_val.bin", "a text");
    refused({d / "x_val.bin"}, "has another vocabulary");
    std::filesystem::remove(d / "x.tok");
    std::filesystem::create_directory(d / "sub"), std::filesystem::create_symlink(d / "x_val.bin", d / "link.txt");
    for (std::string name : {"x_val.bin", "sub/../x_val.bin", "link.txt"}) refused({d / "a.txt", d / name}, d / name + " is read, and its tokens would replace it, as " + (d / "x_val.bin"));
    std::filesystem::remove(d / "x_val.bin"), std::filesystem::remove(d / "link.txt");
    put_file(d / "x_train_000003.bin", "a text");
    refused({d / "x_train_000003.bin"}, "is read, and its tokens would replace it");  // as what is left of an earlier run it would go, too
    std::filesystem::create_directory(d / "x_val.bin");
    CHECK_ERROR(run_prepare({d / "a.txt", "--out", d / "x"}), "x_val.bin: something that is not a file has this name");
}

TEST("prepare: a shell takes the printed commands apart into the words that are meant") {
    ScratchDir d;
    put_file(d / "t.txt", std::string(1000, 'a')), put_file(d / "it's.txt", "caf\xE9");
    for (std::string name : {"plain", "a b", "it's $HOME", "*", "`x`;&\"\\"}) {
        std::string said = run_prepare({d / "t.txt", "--format", "binidx", "--out", d / name}), words;
        std::string command = text_between(said, "./train_rwkv ", " --layers") + " " + text_between(said, "takes  ", " --data_type");
        put_file(d / "c.sh", "printf '%s|' " + command + " > " + (d / "words"));
        CHECK(!system(("sh " + (d / "c.sh")).c_str()), "%s", command.c_str());
        words = "--train|" + (d / name) + "_train.bin|--val|" + (d / name) + "_val.bin|--out|runs/" + name + "|--data_file|" + (d / name) + "_train|";
        CHECK(file_bytes(d / "words") == words && (name != "plain" || command.find('\'') == command.npos), "%s", command.c_str());
    }
    CHECK_ERROR(run_prepare({d / "it's.txt", "--tokenizer", "char", "--out", d / "x"}), "'" + d.path + "/it'\\''s.txt' > '" + d.path + "/it'\\''s.txt.utf8.txt'");
}

TEST("prepare: a folder and a pipe are no texts, and nobody waits for them") {
    ScratchDir d;
    CHECK(!mkfifo((d / "pipe").c_str(), 0666), "mkfifo");
    CHECK_ERROR(run_prepare({d.path, "--out", d / "x"}), d.path + " is a folder, not a plain file: name the texts in it, such as " + d.path + "/*.txt");
    alarm(60);  // it waited for ever
    CHECK_ERROR(run_prepare({d / "pipe", "--out", d / "x"}), "pipe is not a plain file, and a text is read twice: write it to a file first");
    alarm(0);
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
// A log as rwkv/log.h writes it: `steps` steps of 64 tokens and 10 ms, the loss loss(step), every tenth step validated at loss + 1.
template<class Loss> std::string made_log(int steps, const char *options, const char *hash, Loss loss) {
    std::string s = format("{\"program\":\"x\",%s,\"run\":{\"model\":\"M\",\"shape\":\"L1\",\"precision\":\"fp32\",\"device\":\"d\",\"tokenizer\":\"char\",\"tokenizer_hash\":\"%s\",\"parameters\":1234567,\"memory\":2500000}}\n", options, hash);
    for (int i = 1; i <= steps; i++) {
        s += format("{\"step\":%d,\"tokens\":%d,\"loss\":%.9g,\"lr\":0.1,\"grad_norm\":1,\"ms\":10,\"tok_per_s\":6400}\n", i, 64 * i, (double)loss(i));
        if (i % 10 == 0) s += format("{\"step\":%d,\"val_loss\":%.9g,\"bits_per_byte\":2.5}\n", i, loss(i) + 1.0);
    }
    return s + format("{\"step\":%d,\"sample\":\"if a < b && \\\"c\\\"\\nthen <script>\"}\n", steps);
}
TEST("plot: runs under one name become their mean and standard deviation, at the steps that all have") {
    LogFolder folder;
    write_text(folder("a.jsonl"), made_log(40, "\"seed\":\"1\",\"lr\":\"0.1\"", "1", [](int i) { return 4 - 0.05 * i; }));
    write_text(folder("b.jsonl"), made_log(20, "\"seed\":\"2\",\"lr\":\"0.1\"", "1", [](int i) { return 6 - 0.05 * i; }));
    for (const char *axis : {"steps", "seconds"}) {
        Ran r = run_tool("plot", "One: " + folder("a.jsonl") + " Two: " + folder("a.jsonl") + " " + folder("b.jsonl") + " --smooth 0 --x " + axis + " --out " + folder("o.svg") + " --markdown " + folder("o.md"));
        CHECK(r.rc == 0, "%s", r.said.c_str());
        std::string s = text_of(folder("o.svg")), md = text_of(folder("o.md"));
        CHECK(s.find("One: train 2.000, val 3.000<") != s.npos && s.find("Two: train 4.000 ± 1.414, val 5.000 ± 1.414<") != s.npos, "legend: %s", r.said.c_str());  // at steps 40 and 20
        CHECK(s.find("<polygon class=\"band f1\"") != s.npos && s.find("band f0") == s.npos && s.find("raw s0") != s.npos && s.find("raw s1") == s.npos, "band and thin line");
        CHECK(s.find("class=\"bar s1\"") != s.npos && s.find("standard deviation") != s.npos && s.find("dashed") != s.npos, "key");
        // steps 11 .. 20: 4 - 0.05 * 15.5 and 2 more; parameters, tokens, medians, memory of the first
        CHECK(md.find("| 20 | 3.2250 | 4.0000 | 4.2250 ± 1.4142 | 5.0000 ± 1.4142 |") != md.npos, "%s", md.c_str());
        CHECK(md.find("| One | 1,234,567 | 40 | 2,560 | 2.2250 | 3.0000 | 3.0000 (40) | 10 | 6,400 | 2.5 MB |") != md.npos && md.find("| Two (2 seeds) |") != md.npos, "%s", md.c_str());
        CHECK(md.find("\n    if a < b && \"c\"\n    then <script>\n") != md.npos, "%s", md.c_str());
    }
}
TEST("plot: the smoothed line is not late and does not smear the first fall") {
    LogFolder folder;
    write_text(folder("a"), made_log(100, "\"seed\":\"1\"", "1", [](int i) { return 200.0 - i; }));     // of a straight line the mean is itself
    Ran r = run_tool("plot", folder("a") + " --smooth 0.8 --out " + folder("o.svg"));
    std::string s = text_of(folder("o.svg")), raw = text_between(s, "class=\"raw s0\" points=\"", "\""), smooth = text_between(s, "class=\"smooth s0\" points=\"", "\"");
    size_t same = std::mismatch(raw.begin(), raw.begin() + std::min(raw.size(), smooth.size()), smooth.begin()).first - raw.begin();
    size_t points = std::count(raw.begin(), raw.begin() + same, ' ');
    CHECK(points >= 94 && points < 100, "%d of 100 points are on the line", (int)points);               // the last 4 have fewer to the right
    CHECK(r.said.find("train 102.000") != std::string::npos, "%s", r.said.c_str());                      // the last: of steps 96 .. 100
}
TEST("plot: the report is one file, with everything in it and escaped") {
    LogFolder folder;
    write_text(folder("a.jsonl"), made_log(30, "\"seed\":\"1\",\"lr\":\"0.10000000000000001\",\"out\":\"\"", "1", [](int i) { return 1 + 3.0 / i; }));
    write_text(folder("b.jsonl"), made_log(30, "\"seed\":\"2\",\"lr\":\"0.20000000000000001\",\"out\":\"\"", "1", [](int i) { return 1 + 4.0 / i; }));
    for (std::string logs : {folder("a.jsonl"), "A: " + folder("a.jsonl") + " 'B<&>:' " + folder("b.jsonl")}) {
        Ran r = run_tool("plot", logs + " --html " + folder("o.html"));
        std::string s = text_of(folder("o.html")), outside = s;
        for (const char *tag : {"html", "head", "body", "style", "svg", "table", "pre", "details", "summary", "title", "g", "tr", "td", "th", "p", "h2"}) {
            auto count = [&](const std::string &what) { int n = 0; for (size_t i = 0; (i = s.find(what, i)) != s.npos; i++) n += !isalnum((unsigned char)s[i + what.size()]); return n; };
            CHECK(count(std::string("<") + tag) == count(std::string("</") + tag), "<%s> is not closed", tag);
        }
        for (size_t i; (i = outside.find("http://www.w3.org/2000/svg")) != outside.npos;) outside.erase(i, 26);
        CHECK(r.rc == 0 && outside.find("http") == outside.npos && outside.find("src=") == outside.npos && outside.find("<script") == outside.npos, "it needs another file: %s", r.said.c_str());
        CHECK(s.find("if a &lt; b &amp;&amp; &quot;c&quot;\nthen &lt;script&gt;") != s.npos, "the sample");
        CHECK(s.find("prefers-color-scheme:dark") != s.npos && s.find("seconds</text>") != s.npos && s.find("steps</text>") != s.npos, "style, both charts");
        if (logs[0] == 'A') CHECK(s.find("<tr class=\"differs\"><td>--lr</td><td>0.1</td><td>0.2</td>") != s.npos && s.find("<th>B&lt;&amp;&gt;</th>") != s.npos, "configuration");
        CHECK(s.find("<td>model</td><td>M</td>") != s.npos && s.find("1,234,567") != s.npos && s.find("--out") == s.npos, "facts; an option that is empty everywhere");
    }
}
TEST("plot: other numbers than the loss, and the end of the axis") {
    LogFolder folder;
    std::string log = "{\"program\":\"latency\",\"tokens\":\"512\"}\n";
    for (int i = 1; i <= 4; i++) log += format("{\"tokens\":%d,\"latency_ms\":%g,\"total_s\":%d,\"memory\":%d}\n", 128 * i, 0.5 * i, i, 1000000 * i);
    write_text(folder("l"), log);
    struct { const char *y, *says; } rows[] = {{"latency_ms", "L: 2.000"}, {"total_s", "L: 4.000"}, {"memory", "L: 4.000"}};
    for (auto &row : rows) {
        Ran r = run_tool("plot", "L: " + folder("l") + " --x tokens --zero --y " + row.y + " --out " + folder("o.svg"));
        std::string s = text_of(folder("o.svg"));
        CHECK(r.rc == 0 && s.find(row.says) != s.npos && s.find(">0</text>") != s.npos && s.find(">500</text>") != s.npos, "%s: %s", row.y, r.said.c_str());
    }
    write_text(folder("a"), made_log(30, "\"seed\":\"1\"", "1", [](int i) { return 1 + 90.0 / i; }));
    Ran r = run_tool("plot", folder("a") + " --smooth 0 --y-max 10 --out " + folder("o.svg"));
    std::string s = text_of(folder("o.svg"));
    CHECK(r.rc == 0 && s.find(">10</text>") != s.npos && s.find(">50</text>") == s.npos && s.find(">20</text>\n<line class=\"grid\" x1=\"62\"") == s.npos, "%s", r.said.c_str());
}
TEST("plot: logs that do not belong together are a sentence") {
    LogFolder folder;
    auto loss = [](int i) { return 1 + 3.0 / i; };
    write_text(folder("a"), made_log(30, "\"seed\":\"1\",\"lr\":\"0.1\",\"log\":\"a\"", "1", loss));
    write_text(folder("seed"), made_log(30, "\"seed\":\"2\",\"lr\":\"0.1\",\"log\":\"b\"", "1", loss));
    write_text(folder("lr"), made_log(30, "\"seed\":\"2\",\"lr\":\"0.2\"", "1", loss));
    write_text(folder("words"), made_log(30, "\"seed\":\"1\",\"lr\":\"0.1\"", "2", loss));
    std::string shape = made_log(30, "\"seed\":\"1\",\"lr\":\"0.1\"", "1", loss), a = folder("a"), old = "{\"program\":\"x\",\"seed\":\"3\"}\n{\"step\":1,\"loss\":2}\n";
    write_text(folder("shape"), shape.replace(shape.find("L1"), 2, "L2")), write_text(folder("old"), old), write_text(folder("late"), "{\"step\":99,\"loss\":2}\n");
    struct { std::string arguments; const char *says; int rc; } rows[] = {
        {a + " " + folder("seed"), "train", 0}, {"A: " + a + " " + folder("seed"), "train", 0}, {a + " " + folder("old"), "train", 0}, {a + " " + folder("words") + " --y bits", "2.500", 0},
        {a + " " + folder("words"), "were trained on other tokens (char 1 and char 2)", 1},
        {"A: " + a + " " + folder("lr"), "both runs of A:, but --lr is 0.1 in one and 0.2 in the other", 1},
        {"A: " + a + " " + folder("shape"), "their shape is L1 and L2", 1}, {"A: " + a + " " + folder("late"), "the logs of A: have no step in common", 1},
        {"A: B: " + a, "no log follows A:", 2}, {a + " A:", "no log follows A:", 2}, {a + " --y memory", "has no step with a memory", 1},
        {a + " --y lr --html x.html", "leave --y away", 2}, {a + " --zero --log-y", "exclude each other", 2}, {a + " --y speed", "--y is 'speed'", 2},
    };
    for (auto &r : rows) {
        Ran got = run_tool("plot", r.arguments);
        CHECK(got.rc == r.rc && got.said.find(r.says) != std::string::npos && (!r.rc || std::count(got.said.begin(), got.said.end(), '\n') == 1), "%s: exit code %d, %s", r.says, got.rc, got.said.c_str());
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
