/* tests/log.h: the run's log and the progress line. */
#pragma once
#include "../rwkv/log.h"
#include "test.h"
#include <filesystem>

struct LogFolder {  // an empty folder that goes away with the test
    std::string path = (std::filesystem::temp_directory_path() / "rwkv_log_XXXXXX").string();
    LogFolder() { if (!mkdtemp(path.data())) fail("%s: %s", path.c_str(), strerror(errno)); }
    ~LogFolder() { std::filesystem::remove_all(path); }
    std::string operator()(const char *name) const { return path + "/" + name; }
};
static std::string text_of(const std::string &path) {
    std::ifstream in(path);
    return {std::istreambuf_iterator<char>(in), {}};
}
static void write_text(const std::string &path, const std::string &text) { std::ofstream(path) << text; }
static StepLine step_line(int64_t i) { return {i, 64 * i, 4.0 / i, 1e-3, 1.5, 10, 6400}; }

struct LogOptions {
    int64_t batch;
    std::string name;
    Options options{"train_rwkv", "", {{"batch", &batch, 16, 1, 99, ""}, {"out", &name, "a \"b\"\\c", "", ""}}};
};

TEST("log: one JSON object a line, the options first, null for what is not finite") {
    LogFolder folder;
    LogOptions o;
    RunLog log;
    log.open(folder("run.jsonl"), o.options);
    log.step({1, 64, 0.1f, 6e-4, NAN, 10.5, 6095.2});
    log.eval(1, 3.25, INFINITY);
    std::string text = text_of(folder("run.jsonl"));  // read while the log is open: every line is out at once
    std::string want = "{\"program\":\"train_rwkv\",\"batch\":\"16\",\"out\":\"a \\\"b\\\"\\\\c\"}\n"
        "{\"step\":1,\"tokens\":64,\"loss\":0.100000001,\"lr\":0.0006,\"grad_norm\":null,\"ms\":10.5,\"tok_per_s\":6095.2}\n"
        "{\"step\":1,\"val_loss\":3.25,\"bits_per_byte\":null}\n";
    CHECK(text == want, "%s", text.c_str());
    size_t at = 0;
    for (size_t end; (end = text.find('\n', at)) != std::string::npos; at = end + 1) parse_json(text.substr(at, end - at), "run.jsonl");
}
TEST("log: what the run is and what it writes are in it, whatever the bytes") {
    LogFolder folder;
    LogOptions o;
    o.name = "caf\xe9";
    {
        RunLog log;
        log.open(folder("run.jsonl"), o.options, -1, {"RWKV-4", "L1", "fp32", "a \"device\"", "char", "00ff", 1234567890123, 5000000000});
        log.sample(7, "one \"two\"\n\xe4\xb8\xad \xff \xe4\xb8");
    }
    std::ifstream in(folder("run.jsonl"));
    std::string line;
    std::getline(in, line);
    Json first = parse_json(line, "run.jsonl"), run = first.at("run");
    CHECK(first.at("out").as_text() == "caf\xef\xbf\xbd" && run.at("model").as_text() == "RWKV-4" && run.at("device").as_text() == "a \"device\"" && run.at("tokenizer_hash").as_text() == "00ff", "%s", line.c_str());
    CHECK(run.at("parameters").as_int() == 1234567890123 && run.at("memory").as_int() == 5000000000, "%s", line.c_str());
    std::getline(in, line);
    Json sample = parse_json(line, "run.jsonl");
    CHECK(sample.at("step").as_int() == 7 && sample.at("sample").as_text() == "one \"two\"\n\xe4\xb8\xad \xef\xbf\xbd \xef\xbf\xbd", "%s", line.c_str());
}
TEST("log: killed and resumed, it is the log of an uninterrupted run") {
    LogFolder folder;
    LogOptions o;
    std::string whole;
    for (const char *name : {"whole.jsonl", "killed.jsonl"}) {
        bool killed = !strcmp(name, "killed.jsonl");
        {
            RunLog log;
            log.open(folder(name), o.options);
            for (int i = 1; i <= (killed ? 17 : 30); i++) {
                log.step(step_line(i));
                if (i % 10 == 0) log.eval(i, 3, 4);
            }
        }
        if (!killed) { whole = text_of(folder(name)); continue; }
        std::ofstream(folder(name), std::ios::app) << "{\"step\":1";        // the half of line 18
        RunLog log;
        log.open(folder(name), o.options, 10);                              // last checkpoint: step 10
        for (int i = 11; i <= 30; i++) {
            log.step(step_line(i));
            if (i % 10 == 0) log.eval(i, 3, 4);
        }
    }
    CHECK(text_of(folder("killed.jsonl")) == whole, "the logs differ:\n%s", text_of(folder("killed.jsonl")).c_str());
    CHECK(!std::filesystem::exists(folder("killed.jsonl.tmp")), "the temporary file is still there");
}
TEST("log: resumed without its file or at step 0 it starts anew, and a new run keeps the old log aside") {
    LogFolder folder;
    LogOptions o;
    std::string options_line;
    { RunLog log; log.open(folder("a"), o.options, 10); log.step(step_line(11)); }
    options_line = text_of(folder("a")).substr(0, text_of(folder("a")).find('\n') + 1);
    CHECK(options_line.find("program") != std::string::npos, "no options: %s", options_line.c_str());
    { RunLog log; log.open(folder("a"), o.options, 0); }
    CHECK(text_of(folder("a")) == options_line, "%s", text_of(folder("a")).c_str());
    write_text(folder("a"), "precious\n");
    { RunLog log; log.open(folder("a"), o.options); }
    CHECK(text_of(folder("a.old")) == "precious\n" && text_of(folder("a")) == options_line, "%s", text_of(folder("a.old")).c_str());
}
TEST("log: no name, no log; a folder that does not exist is a sentence; a full disk is one warning") {
    LogFolder folder;
    LogOptions o;
    RunLog none, bad;
    none.open("", o.options);
    none.step(step_line(1));
    CHECK_ERROR(bad.open(folder("none/run.jsonl"), o.options), "none/run.jsonl cannot be written");
    if (access("/dev/full", W_OK)) SKIP("no /dev/full");
    int screen = dup(2), file = open(folder("stderr").c_str(), O_WRONLY | O_CREAT, 0600);
    dup2(file, 2);
    {
        RunLog full;
        full.open("/dev/full", o.options);
        for (int i = 1; i < 5; i++) full.step(step_line(i));
    }
    dup2(screen, 2), close(screen), close(file);
    std::string said = text_of(folder("stderr"));
    CHECK(said.find("/dev/full") != std::string::npos && std::count(said.begin(), said.end(), '\n') == 1, "it said: %s", said.c_str());
}

// What a Progress over `steps` steps of 64 tokens prints; ms(i) is the time of step i.
template<class Ms> std::string progress_text(int64_t from, int64_t steps, int64_t every, bool terminal, Ms ms) {
    LogFolder folder;
    FILE *out = fopen(folder("out").c_str(), "w");
    Progress p(steps, every, 64 * from, out);
    p.terminal = terminal;
    for (int64_t i = from + 1; i <= steps; i++) {
        p.step({i, 64 * i, 2.5, 1e-3, 1, ms(i), 0});
        if (i == from + 2) p.note("a note");
    }
    fclose(out);
    return text_of(folder("out"));
}
TEST("progress: in a file the first, every n-th and the last step, right from the first") {
    std::string text = progress_text(0, 25, 10, false, [](int64_t) { return 128.0; });
    CHECK(text == "step  1/25   4%  loss 2.5000  lr 1.00e-03  500 tok/s  3 s left\n"
                  "a note\n"
                  "step 10/25  40%  loss 2.5000  lr 1.00e-03  500 tok/s  2 s left\n"
                  "step 20/25  80%  loss 2.5000  lr 1.00e-03  500 tok/s  1 s left\n"
                  "step 25/25 100%  loss 2.5000  lr 1.00e-03  500 tok/s  0 s left\n", "%s", text.c_str());
}
TEST("progress: speed and time left are right from the first step after a resume") {
    std::string text = progress_text(3600, 7201, 10000, false, [](int64_t) { return 1000.0; });
    CHECK(text.find("step 3601/7201  50%  loss 2.5000  lr 1.00e-03  64 tok/s  1:00 h left\n") == 0, "%s", text.c_str());
}
TEST("progress: after a change of speed the time left follows") {
    std::string text = progress_text(0, 400, 200, false, [](int64_t i) { return i < 100 ? 10.0 : 1000.0; });
    CHECK(text.find("step 200/400  50%  loss 2.5000  lr 1.00e-03  64 tok/s  3:19 min left") != std::string::npos, "%s", text.c_str());
}
TEST("progress: on a terminal one line redrawn ten times a second, notes on lines of their own") {
    std::string text = progress_text(0, 40, 1, true, [](int64_t) { return 50.0; });
    size_t drawn = std::count(text.begin(), text.end(), '\r');
    CHECK(drawn >= 20 && drawn <= 24, "drawn %d times in 2 s", (int)drawn);
    CHECK(std::count(text.begin(), text.end(), '\n') == 2, "%s", text.c_str());
    CHECK(text.find("\r\x1b[Ka note\n") != std::string::npos || text.find("\na note") != std::string::npos, "the note is not on its own line");
    CHECK(text.compare(text.size() - 1, 1, "\n") == 0 && text.find("\x1b[K\n") != std::string::npos, "the last line stays open");
}
TEST("progress: numbers for people") {
    CHECK(thousands(0) == "0" && thousands(999) == "999" && thousands(1000) == "1,000" && thousands(1234567) == "1,234,567" && thousands(-1000) == "-1,000" && thousands(-100) == "-100",
          "%s %s", thousands(-1000).c_str(), thousands(1234567).c_str());
    struct { double s; const char *want; } rows[] = {{0, "0 s"}, {-1, "0 s"}, {59.4, "59 s"}, {59.6, "1:00 min"}, {3599, "59:59 min"}, {3600, "1:00 h"}, {90000, "1 d 1 h"}};
    for (auto &r : rows) CHECK(duration(r.s) == r.want, "%g s is %s", r.s, duration(r.s).c_str());
}
