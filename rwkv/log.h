/* rwkv/log.h: what a training run tells: the file --log run.jsonl and the progress line.

   The log is JSON lines. The first holds the run's options as strings and what became of them, then come one line a
   step, one an evaluation and one a sample:
       {"program":"train_rwkv","batch":"16", ..., "run":{"model":"RWKV-4","shape":"L4 C128 F512 V65","precision":"fp32",
           "device":"...","tokenizer":"char","tokenizer_hash":"0123456789abcdef","parameters":874752,"memory":44040192}}
       {"step":1,"tokens":1024,"loss":4.17438745,"lr":6e-05,"grad_norm":1.25,"ms":55.101,"tok_per_s":18584}
       {"step":100,"val_loss":2.50,"bits_per_byte":3.61}
       {"step":100,"sample":"ROMEO: ..."}
   step counts the steps done, so the first is 1; losses are nats per token; a number that is not finite is null; memory
   is the peak on the device in bytes.
   Each line is written at once. A run resumed from a checkpoint of step n first removes the lines after step n
   (atomically), so that its log is the log of an uninterrupted run: write the lines of a step before its checkpoint.
   defines: StepLine, RunFacts, RunLog, utf8_repaired, Ema, Progress, thousands, megabytes, duration */
#pragma once
#include "file.h"
#include "json.h"
#include "options.h"
#include <cmath>
#include <fstream>
#include <sys/ioctl.h>

struct StepLine {
    int64_t step, tokens;  // done so far in the whole run, this step included
    double loss, lr, grad_norm, ms, tok_per_s;
};

// What a run is, beyond its options: the last entry of the log's first line. Left empty, it is not written.
struct RunFacts {
    std::string model, shape, precision, device, tokenizer, tokenizer_hash;
    int64_t parameters = 0, memory = 0;  // memory: bytes on the device, at the peak
    std::string json() const {
        std::string s;
        const std::pair<const char *, const std::string &> texts[] = {{"model", model}, {"shape", shape}, {"precision", precision}, {"device", device}, {"tokenizer", tokenizer}, {"tokenizer_hash", tokenizer_hash}};
        for (auto &t : texts) s += format("\"%s\":%s,", t.first, json_quote(t.second).c_str());
        return "{" + s + format("\"parameters\":%lld,\"memory\":%lld}", (long long)parameters, (long long)memory);
    }
};

inline std::string utf8_repaired(const std::string &text) {  // what JSON can hold
    Utf8Stream stream;
    std::string s = stream.feed(text);
    return s + stream.flush();
}
inline std::string json_number(double x, int digits) { return std::isfinite(x) ? format("%.*g", digits, x) : "null"; }

struct RunLog {
    std::string path;
    int file = -1;         // -1: no log was asked for
    bool warned = false;

    RunLog() {}
    RunLog(const RunLog &) = delete;
    RunLog &operator=(const RunLog &) = delete;
    ~RunLog() { if (file >= 0) close(file); }

    // resumed: the step of the checkpoint this run goes on from, or -1 for a new run, which puts an older log of
    // that name aside as NAME.old, NAME.old2, ... An empty path means no log.
    void open(const std::string &name, const Options &options, int64_t resumed = -1, const RunFacts &facts = {}) {
        if (name.empty()) return;
        path = name;
        struct stat info;
        bool old = !stat(path.c_str(), &info) && S_ISREG(info.st_mode) && info.st_size > 0;
        std::string aside = path + ".old";
        for (int i = 2; !access(aside.c_str(), F_OK); i++) aside = path + ".old" + std::to_string(i);
        if (old && resumed < 0 && rename(path.c_str(), aside.c_str()))
            fail("--log %s exists and cannot be renamed to %s (%s); pass another name", path.c_str(), aside.c_str(), strerror(errno));
        if (old && resumed >= 0) keep_until(resumed);
        file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        if (file < 0) fail("--log %s cannot be written (%s); pass a file in a folder that exists", path.c_str(), strerror(errno));
        if (!fstat(file, &info) && info.st_size > 0) return;
        std::string first = "{\"program\":" + json_quote(options.program);
        for (const Option &o : options.table) first += "," + json_quote(o.name) + ":" + json_quote(utf8_repaired(o.text()));
        if (!facts.model.empty()) first += ",\"run\":" + facts.json();
        write(first + "}\n");
    }
    void step(const StepLine &s) {
        write(format("{\"step\":%lld,\"tokens\":%lld,\"loss\":%s,\"lr\":%s,\"grad_norm\":%s,\"ms\":%s,\"tok_per_s\":%s}\n", (long long)s.step, (long long)s.tokens,
            json_number(s.loss, 9).c_str(), json_number(s.lr, 9).c_str(), json_number(s.grad_norm, 9).c_str(), json_number(s.ms, 6).c_str(), json_number(s.tok_per_s, 6).c_str()));
    }
    void eval(int64_t step, double val_loss, double bits_per_byte) {
        write(format("{\"step\":%lld,\"val_loss\":%s,\"bits_per_byte\":%s}\n", (long long)step, json_number(val_loss, 9).c_str(), json_number(bits_per_byte, 9).c_str()));
    }
    void sample(int64_t step, const std::string &text) { write(format("{\"step\":%lld,\"sample\":", (long long)step) + json_quote(utf8_repaired(text)) + "}\n"); }

    // A whole line or nothing. A full disk does not stop the training: one warning, and later lines are tried again.
    void write(const std::string &line) {
        if (file < 0) return;
        off_t end = lseek(file, 0, SEEK_END);
        ssize_t n = ::write(file, line.data(), line.size());
        if (n == (ssize_t)line.size()) return;
        const char *why = n < 0 ? strerror(errno) : "disk full";
        if (n > 0 && ftruncate(file, end)) why = strerror(errno);
        if (!warned) fprintf(stderr, "warning: --log %s cannot be written (%s); training goes on, lines will be missing\n", path.c_str(), why);
        warned = true;
    }
    // Leaves the lines up to and with step `last`; the half line of a killed process goes too.
    void keep_until(int64_t last) {
        std::ifstream in(path);
        if (!in) fail("--log %s exists and cannot be read (%s); pass another name", path.c_str(), strerror(errno));
        std::string line;
        if (!std::getline(in, line) || line.compare(0, 11, "{\"program\":")) fail("--log %s exists and is not the log of a run; pass another name", path.c_str());
        in.clear(), in.seekg(0);
        OutputFile out(path);
        while (std::getline(in, line) && !in.eof()) {  // eof: the last line has no newline
            long long step = 0;
            sscanf(line.c_str(), " { \"step\" : %lld", &step);
            line += '\n';
            if (step <= last) out.write(line.data(), line.size());
        }
        out.commit();
    }
};

// Moving average with the bias of the empty start taken out: after one value it is that value.
struct Ema {
    double decay, sum = 0, weight = 0;
    explicit Ema(double decay) : decay(decay) {}
    void add(double x) { sum = decay * sum + (1 - decay) * x, weight = decay * weight + (1 - decay); }
    double value() const { return weight > 0 ? sum / weight : 0; }
};

inline std::string thousands(int64_t n) {  // 1234567 -> 1,234,567
    std::string s = std::to_string(n);
    for (int64_t i = (int64_t)s.size() - 3; i > (n < 0); i -= 3) s.insert(i, ",");
    return s;
}
inline std::string megabytes(double bytes) { return bytes < 1e9 ? format("%.1f MB", bytes / 1e6) : format("%.2f GB", bytes / 1e9); }
inline std::string duration(double seconds) {  // 42 s, 3:05 min, 2:03 h, 5 d 2 h
    long long s = llround(std::min(std::max(seconds, 0.0), 1e12));
    if (s < 60) return format("%lld s", s);
    if (s < 3600) return format("%lld:%02lld min", s / 60, s % 60);
    if (s < 86400) return format("%lld:%02lld h", s / 3600, s / 60 % 60);
    return format("%lld d %lld h", s / 86400, s / 3600 % 24);
}

// On a terminal one line, redrawn at most ten times a second; in a file one line every `every` steps. Speed, time left
// and loss are averages over about the last 20 steps of this process, so a resumed run is right from its first step.
struct Progress {
    int64_t steps, every, tokens;
    FILE *out;
    bool terminal, drawn = false;
    double since = 1e9;  // ms since the line was drawn
    Ema loss{0.95}, ms{0.95}, step_tokens{0.95};

    // tokens: seen before this process's first step.
    Progress(int64_t steps, int64_t every, int64_t tokens = 0, FILE *out = stdout)
        : steps(steps), every(std::max<int64_t>(every, 1)), tokens(tokens), out(out), terminal(isatty(fileno(out))) {}

    std::string line(const StepLine &s) const {
        std::string total = std::to_string(steps);
        return format("step %*lld/%s %3.0f%%  loss %.4f  lr %.2e  %s tok/s  %s left", (int)total.size(), (long long)s.step, total.c_str(), 100.0 * s.step / std::max<int64_t>(steps, 1),
            loss.value(), s.lr, thousands(llround(1000 * step_tokens.value() / std::max(ms.value(), 1e-6))).c_str(), duration((steps - s.step) * ms.value() / 1000).c_str());
    }
    void step(const StepLine &s) {
        bool first = ms.weight == 0, last = s.step >= steps;
        if (std::isfinite(s.loss)) loss.add(s.loss);
        ms.add(s.ms), step_tokens.add((double)(s.tokens - tokens));
        tokens = s.tokens, since += s.ms;
        if (!terminal && (first || last || s.step % every == 0)) fprintf(out, "%s\n", line(s).c_str());
        if (terminal && (last || since >= 100)) {
            struct winsize window;
            std::string text = line(s);
            if (!ioctl(fileno(out), TIOCGWINSZ, &window) && window.ws_col > 1) text = text.substr(0, window.ws_col - 1);  // a wrapped line cannot be redrawn
            fprintf(out, "\r%s\x1b[K%s", text.c_str(), last ? "\n" : "");
            since = 0, drawn = !last;
        }
        fflush(out);
    }
    // A line of its own: an evaluation, a sample, a saved checkpoint.
    void note(const std::string &text) {
        fprintf(out, "%s%s\n", drawn ? "\r\x1b[K" : "", text.c_str());
        fflush(out);
        drawn = false, since = 1e9;
    }
};
