/* dev/plot.cpp: curves of any number of logs: in the terminal, as an SVG, and in a report with tables and samples.

       ./plot run.jsonl [more.jsonl ...] [--out loss.svg] [--x steps|tokens|seconds] [--log-x] [--log-y]
       ./plot RWKV-4: runs/rwkv-*.jsonl GPT-2: runs/gpt2-*.jsonl --out loss.svg
       ./plot --html report.html --markdown report.md run.jsonl ...

   A word that ends in a colon names the logs after it: they are runs of one configuration with different seeds, and
   become one curve, their mean, with a band of one standard deviation (n - 1) to both sides. A curve goes over the
   steps that all of its logs have; its x is their mean too, which matters for seconds.

   Reads the logs of rwkv/log.h: lines with "loss" are the training curve (thin: as logged, thick: smoothed), lines
   with "val_loss" the validation points. Seconds are the sum of "ms" over the steps: evaluations are not in it. Lines
   whose loss is null or NaN are left out with a note. The half line at the end of a log that is being written is left
   out without one. --y draws another number of the lines; latency_ms, total_s and memory are dev/compare/latency.cu's.
   The SVG carries its own style for light and dark pages; the terminal chart is drawn in braille dots where the
   locale is UTF-8, else in ASCII, 80 columns wide. The HTML report is one file that needs no other. */
#include "../rwkv/log.h"
#include "../rwkv/options.h"
#include <map>

// ------------------------------------------------------------------------------------------------
// Logs, and the curves made of them

// What --y can name: keys of the lines, for the curve and for the points of validation
static const struct Measure { const char *name, *key, *val_key, *label; double scale; bool noisy; } measures[] = {
    {"loss",       "loss",       "val_loss",      "loss (nats per token)",           1,    true},
    {"bits",       "",           "bits_per_byte", "validation loss (bits per byte)", 1,    false},
    {"lr",         "lr",         "",              "learning rate",                   1,    false},
    {"grad_norm",  "grad_norm",  "",              "gradient norm",                   1,    true},
    {"tok_per_s",  "tok_per_s",  "",              "tokens per second",               1,    true},
    {"latency_ms", "latency_ms", "",              "milliseconds per token",          1,    false},
    {"total_s",    "total_s",    "",              "seconds since the first token",   1,    false},
    {"memory",     "memory",     "",              "memory (MB)",                     1e-6, false},
};
static const char *const MEASURES = "loss|bits|lr|grad_norm|tok_per_s|latency_ms|total_s|memory";

struct Mark { int64_t step; double tokens, seconds, y; };  // step: by which the logs of a group are matched
struct Sample { int64_t step; std::string text; };
struct Log {
    std::string path;
    std::vector<std::pair<std::string, std::string>> options, facts;  // of the first line
    std::vector<Mark> train, val;
    std::vector<double> ms, speed;                                    // of every step
    std::vector<Sample> samples;

    std::string fact(const std::string &key) const {
        for (auto &f : facts) if (f.first == key) return f.second;
        return "";
    }
};

static std::string plain(const Json &j) { return j.type == Json::String ? j.text : j.whole ? std::to_string(j.integer) : format("%g", j.number); }

static Log read_log(const std::string &path, const Measure &measure) {
    std::ifstream in(path);
    struct stat info;
    if (stat(path.c_str(), &info) || !in) fail("%s cannot be opened (%s)", path.c_str(), strerror(errno));
    if (S_ISDIR(info.st_mode)) fail("%s is a folder; pass the run's log, the file given to --log", path.c_str());
    Log log;
    log.path = path;
    double seconds = 0, tokens = 0;
    int skipped = 0;
    std::string line;
    for (int number = 1; std::getline(in, line); number++) {
        bool cut = in.eof();                                                   // no newline: perhaps half a line
        if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
        Json j;
        try {
            j = parse_json(line, path);
            j.expect(Json::Object);
        } catch (const Error &) {
            if (cut && number > 1) break;
            if (number > 1 && (line.find("NaN") != std::string::npos || line.find("Infinity") != std::string::npos)) { skipped++; continue; }  // not JSON, but common
            fail("%s line %d is no JSON object; pass a log written with --log", path.c_str(), number);
        }
        auto number_at = [&](const char *key) {                                // 1e30, a run gone wild: as good as infinite
            const Json *n = j.find(key);
            return n && n->type == Json::Number && fabs(n->number) < 1e30 ? n->number : NAN;
        };
        double seen = number_at("tokens"), step = number_at("step"), took = number_at("ms");
        if (std::isnan(step)) step = seen;
        if (std::isnan(step)) {                                                // the first line
            for (size_t i = 0; i < j.keys.size(); i++) {
                if (j.keys[i] != "run") log.options.push_back({j.keys[i], plain(j.items[i])});
                else for (size_t k = 0; k < j.items[i].keys.size(); k++) log.facts.push_back({j.items[i].keys[k], plain(j.items[i].items[k])});
            }
            continue;
        }
        const Json *sample = j.find("sample");
        if (sample && sample->type == Json::String) { log.samples.push_back({(int64_t)step, sample->text}); continue; }
        if (!std::isnan(seen)) tokens = seen;
        if (!std::isnan(took)) seconds += took / 1000, log.ms.push_back(took), log.speed.push_back(number_at("tok_per_s"));
        double y = number_at(measure.key) * measure.scale, val = number_at(measure.val_key) * measure.scale;
        if (!std::isnan(y)) log.train.push_back({(int64_t)step, tokens, seconds, y});
        if (!std::isnan(val)) log.val.push_back({(int64_t)step, tokens, seconds, val});
        skipped += std::isnan(y) && std::isnan(val) && (j.find(measure.key) || j.find(measure.val_key));
    }
    if (log.train.empty() && log.val.empty()) fail("%s has no step with a %s to draw; pass a log written with --log", path.c_str(), *measure.key ? measure.key : measure.val_key);
    if (skipped) fprintf(stderr, "note: %s: %d line%s without a finite %s left out\n", path.c_str(), skipped, skipped == 1 ? "" : "s", *measure.key ? measure.key : measure.val_key);
    return log;
}

struct Point { double x, y, spread; };  // spread: standard deviation over the logs of a group
struct Run {
    std::string name;
    std::vector<Log> logs;
    std::vector<Point> train, smooth, val;
};

struct Mean {  // and the standard deviation
    double sum = 0, squares = 0;
    int n = 0;
    void add(double x) { sum += x, squares += x * x, n++; }
    double mean() const { return n ? sum / n : NAN; }
    double spread() const { return n > 1 ? sqrt(std::max(0.0, (squares - sum * sum / n) / (n - 1))) : 0; }
    std::string text() const { return !n ? "-" : n == 1 ? format("%.4f", mean()) : format("%.4f ± %.4f", mean(), spread()); }
};

// The mean over the logs at every step that all of them have.
static std::vector<Point> mean_curve(const std::vector<std::vector<Mark>> &curves, const std::string &axis) {
    struct At { double x = 0; Mean y; };
    std::map<int64_t, At> steps;
    for (auto &marks : curves)
        for (const Mark &m : marks) {
            At &at = steps[m.step];
            at.x += axis == "steps" ? m.step : axis == "tokens" ? m.tokens : m.seconds, at.y.add(m.y);
        }
    std::vector<Point> points;
    for (auto &[step, at] : steps) if (at.y.n == (int)curves.size()) points.push_back({at.x / at.y.n, at.y.mean(), at.y.spread()});
    return points;
}
// The mean over `share` / (1 - share) steps to both sides: as smooth as an exponential mean with that share of the past, but
// not late. Near the first step it takes only as many to the right as there are to the left, which keeps the fall there.
static void smooth_marks(std::vector<Mark> &marks, double share) {
    size_t n = marks.size(), most = llround(share / (1 - share));
    std::vector<double> sum(n + 1, 0.0);
    for (size_t i = 0; i < n; i++) sum[i + 1] = sum[i] + marks[i].y;
    for (size_t i = 0; i < n; i++) {
        size_t left = std::min(i, most), right = std::min(left, n - 1 - i);
        marks[i].y = (sum[i + right + 1] - sum[i - left]) / (left + right + 1);
    }
}
static void draw_run(Run &run, const std::string &axis, double smoothing) {
    std::vector<std::vector<Mark>> train, smooth, val;
    for (const Log &log : run.logs) {
        train.push_back(log.train), smooth.push_back(log.train), val.push_back(log.val);
        smooth_marks(smooth.back(), smoothing);
    }
    run.train = mean_curve(train, axis), run.smooth = mean_curve(smooth, axis), run.val = mean_curve(val, axis);
    if (run.logs.size() > 1) run.train.clear();  // the band tells more
    if (run.smooth.empty() && run.val.empty()) fail("the logs of %s: have no step in common; name them apart", run.name.c_str());
}

// Options that two runs of one group may have different: what the run is called and shows, not what it does.
static bool may_differ(const std::string &option) {
    for (const char *name : {"seed", "out", "log", "resume", "prompt", "sample-every", "sample-tokens", "temperature", "top-p", "save-every", "keep", "recompute"})
        if (option == name) return true;
    return false;
}
static void check_group(const Run &run) {
    const Log &a = run.logs[0];
    for (const Log &b : run.logs) {
        std::map<std::string, std::string> of_b(b.options.begin(), b.options.end());
        for (auto &[key, value] : a.options)
            if (!may_differ(key) && of_b.count(key) && of_b[key] != value)
                fail("%s and %s are both runs of %s:, but --%s is %s in one and %s in the other; give each a name of its own", a.path.c_str(), b.path.c_str(), run.name.c_str(), key.c_str(),
                     value.empty() ? "empty" : value.c_str(), of_b[key].empty() ? "empty" : of_b[key].c_str());
        for (const char *key : {"model", "shape", "parameters", "precision"})
            if (!a.fact(key).empty() && !b.fact(key).empty() && a.fact(key) != b.fact(key))
                fail("%s and %s are both runs of %s:, but their %s is %s and %s; give each a name of its own", a.path.c_str(), b.path.c_str(), run.name.c_str(), key, a.fact(key).c_str(), b.fact(key).c_str());
    }
}
// A loss per token says nothing beside one of other tokens.
static void check_tokenizers(const std::vector<Run> &runs) {
    const Log *first = nullptr;
    for (const Run &run : runs)
        for (const Log &log : run.logs) {
            std::string hash = log.fact("tokenizer_hash");
            if (hash.empty()) continue;
            if (!first) first = &log;
            if (hash != first->fact("tokenizer_hash"))
                fail("%s and %s were trained on other tokens (%s %s and %s %s), so their losses per token do not compare; pass --y bits, or draw them apart", first->path.c_str(), log.path.c_str(),
                     first->fact("tokenizer").c_str(), first->fact("tokenizer_hash").c_str(), log.fact("tokenizer").c_str(), hash.c_str());
        }
}
static std::string default_name(std::string path) {  // runs/a.jsonl -> runs/a, runs/demo/log.jsonl -> runs/demo
    if (path.size() > 6 && path.substr(path.size() - 6) == ".jsonl") path.resize(path.size() - 6);
    if (path.size() > 4 && path.substr(path.size() - 4) == "/log") path.resize(path.size() - 4);
    return path;
}
static std::vector<Run> read_runs(const std::vector<std::string> &words, const Measure &measure) {
    std::vector<Run> runs;
    bool named = false;
    for (const std::string &word : words) {
        if (word.size() > 1 && word.back() == ':' && access(word.c_str(), F_OK)) {
            if (named && runs.back().logs.empty()) usage_fail("no log follows %s", runs.back().name.append(":").c_str());
            runs.push_back({word.substr(0, word.size() - 1), {}, {}, {}, {}}), named = true;
            continue;
        }
        if (!named) runs.push_back({default_name(word), {}, {}, {}, {}});
        runs.back().logs.push_back(read_log(word, measure));
    }
    if (!runs.empty() && runs.back().logs.empty()) usage_fail("no log follows %s", runs.back().name.append(":").c_str());
    if (runs.empty()) usage_fail("plot needs a log: plot run.jsonl [more.jsonl ...] [--out loss.svg]");
    for (const Run &run : runs) check_group(run);
    if (!strcmp(measure.name, "loss")) check_tokenizers(runs);
    return runs;
}

// ------------------------------------------------------------------------------------------------
// Axes

// 1500 -> 1.5k, 2000000 -> 2M, 0.25 -> 0.25
static std::string short_number(double v) {
    static const struct { double size; const char *unit; } units[] = {{1e12, "T"}, {1e9, "G"}, {1e6, "M"}, {1e3, "k"}};
    for (auto &u : units) if (fabs(v) >= u.size * 0.9999999) return format("%.4g%s", v / u.size, u.unit);
    return format("%.4g", v);
}

struct Axis {
    double low = INFINITY, high = -INFINITY;
    bool log = false;
    std::string label;

    bool has(double v) const { return std::isfinite(v) && (!log || v > 0); }
    void include(double v) { if (has(v)) low = std::min(low, v), high = std::max(high, v); }
    double at(double v) const { return log ? std::log(v / low) / std::log(high / low) : (v - low) / (high - low); }  // 0 at low, 1 at high
    void widen(double share) {  // room at both ends, and an axis of one value gets a length
        if (!(low <= high)) low = log ? 1 : 0, high = log ? 10 : 1;
        if (high - low <= 1e-9 * fabs(high)) { double d = 0.1 * fabs(high); low -= d, high += high != 0 ? d : 1; }
        double f = log ? pow(high / low, share) : (high - low) * share;
        low = log ? low / f : low - f, high = log ? high * f : high + f;
    }
    // Round values, at most about n: steps of 1, 2 or 5 times a power of ten; over more than a decade of a log axis 1, (2, 5,) 10.
    std::vector<double> ticks(int n) const {
        std::vector<double> t;
        double decades = log ? log10(high / low) : 0;
        if (decades > 1) {
            int every = std::max(1, (int)ceil(decades / n));
            for (int e = (int)floor(log10(low)); e <= log10(high); e++)
                for (double m : {1.0, 2.0, 5.0}) {
                    double v = m * pow(10, e);
                    if (v >= low && v <= high && (m == 1 ? e % every == 0 : decades * 3 <= n)) t.push_back(v);
                }
            if (t.size() > 1) return t;
            t.clear();
        }
        double raw = (high - low) / n, unit = pow(10, floor(log10(raw))), step = unit * (raw <= unit ? 1 : raw <= 2 * unit ? 2 : raw <= 5 * unit ? 5 : 10);
        for (double i = ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) t.push_back(i * step == 0 ? 0 : i * step);
        return t;
    }
};

struct Chart {
    std::vector<Run> runs;
    Axis x, y;
    std::string title;
    bool loss, noisy;       // of the measure: has validation beside it; is drawn smoothed

    // The points that the axes can show, at most about two a column: of each column the lowest and the highest.
    std::vector<Point> visible(const std::vector<Point> &points, int columns) const {
        std::vector<Point> out;
        for (size_t i = 0; i < points.size();) {
            if (!x.has(points[i].x) || !y.has(points[i].y)) { i++; continue; }
            int column = (int)(x.at(points[i].x) * columns);
            size_t low = i, high = i, end = i;
            for (; end < points.size() && x.has(points[end].x) && y.has(points[end].y) && (int)(x.at(points[end].x) * columns) == column; end++) {
                if (points[end].y < points[low].y) low = end;
                if (points[end].y > points[high].y) high = end;
            }
            for (size_t k : {std::min(low, high), std::max(low, high)})
                if (out.empty() || out.back().x != points[k].x || out.back().y != points[k].y) out.push_back(points[k]);
            i = end;
        }
        return out;
    }
};

static std::string escaped(const std::string &text) {  // for XML, which has no control characters
    std::string out;
    for (unsigned char c : utf8_bad_byte(text) == std::string::npos ? text : "(not UTF-8)")
        out += c == '&' ? "&amp;" : c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '"' ? "&quot;" : c < 32 ? "?" : std::string(1, (char)c);
    return out;
}

// ------------------------------------------------------------------------------------------------
// The SVG

// Blue, orange, green, ...: told apart by the colour-blind too; the second row is for dark pages.
static const char *const COLOURS[2][8] = {{"#0969da", "#bc4c00", "#1a7f37", "#8250df", "#bf3989", "#0a7a83", "#9a6700", "#57606a"},
                                          {"#58a6ff", "#f0883e", "#3fb950", "#bc8cff", "#f778ba", "#39c5cf", "#d4a72c", "#9ea7b3"}};

static std::string shortened(const std::string &name, size_t length) {  // the end of a path tells more than its beginning
    if (name.size() <= length) return name;
    size_t from = name.size() - (length - 3);
    while (from < name.size() && (name[from] & 0xC0) == 0x80) from++;   // not into a UTF-8 character
    return "..." + name.substr(from);
}
static std::string style(int dark) {
    std::string s = dark ? ".bg{fill:#0d1117}text{fill:#e6edf3}.dim{fill:#9198a1}.grid{stroke:#262c36}.frame{stroke:#6e7681}"
                         : ".bg{fill:#ffffff}text{fill:#1f2328}.dim{fill:#59636e}.grid{stroke:#e6eaef}.frame{stroke:#8c959f}";
    for (int i = 0; i < 8; i++) s += format(".s%d{stroke:%s}.f%d{fill:%s}", i, COLOURS[dark][i], i, COLOURS[dark][i]);
    return s;
}
static std::string number_text(double y, double beside) { return fabs(beside) >= 1e4 || (beside != 0 && fabs(beside) < 1e-2) ? format("%.3g", y) : format("%.3f", y); }
static std::string legend_text(const Chart &c, const Run &run, size_t length) {  // name: the last values
    std::string s = shortened(run.name, length) + ":", comma;
    auto add = [&](const char *what, const std::vector<Point> &points) {
        if (points.empty()) return;
        s += comma + (c.loss ? what : "") + " " + number_text(points.back().y, points.back().y);
        if (points.back().spread > 0) s += " ± " + number_text(points.back().spread, points.back().y);
        comma = ",";
    };
    add(" train", run.smooth), add(" val", run.val);
    return s;
}
// What the kinds of lines mean, of those that the chart has
static std::string key_text(const Chart &c) {
    size_t seeds = 0;
    bool raw = false, val = false;
    for (const Run &r : c.runs) seeds = std::max(seeds, r.logs.size()), raw |= c.noisy && !r.train.empty(), val |= !r.val.empty() && !r.smooth.empty();
    std::string s;
    auto add = [&](bool is, const std::string &text) { if (is) s += (s.empty() ? "" : "; ") + text; };
    add(raw, "thin: every step, thick: smoothed");
    add(val, "solid: training, dashed with dots: validation");
    add(seeds > 1, "band, bars: ± one standard deviation over seeds");
    return s;
}

static std::string svg(const Chart &c) {
    size_t longest = 0;
    for (const Run &r : c.runs) longest = std::max(longest, legend_text(c, r, 26).size());
    const size_t columns = longest > 42 ? 1 : 2;                                              // two of 42 letters have room beside each other
    const double W = 800, chart = 470, rows = (c.runs.size() + columns - 1) / columns, left = 62, right = W - 22, top = c.title.empty() ? 20 : 48, bottom = chart - 52;
    std::string key = key_text(c);
    const double H = chart + 12 + 20 * rows + (key.empty() ? 0 : 20);
    auto X = [&](double v) { return left + c.x.at(v) * (right - left); };
    auto Y = [&](double v) { return bottom - c.y.at(v) * (bottom - top); };
    std::string s = format("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %g %g\" width=\"%g\" height=\"%g\" font-family=\"system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif\" font-size=\"13\">\n", W, H, W, H);
    s += "<style>" + style(0) + "polyline{fill:none;stroke-linejoin:round;stroke-linecap:round}.raw{stroke-width:1;opacity:.28}.smooth{stroke-width:2.2}.val{stroke-width:1.6;stroke-dasharray:2 4}.bar{stroke-width:1.4}.band{opacity:.2}.dot{stroke:none}"
         "\n@media(prefers-color-scheme:dark){" + style(1) + "}</style>\n";
    s += format("<rect class=\"bg\" width=\"%g\" height=\"%g\"/>\n<clipPath id=\"plot\"><rect x=\"%g\" y=\"%g\" width=\"%g\" height=\"%g\"/></clipPath>\n", W, H, left, top, right - left, bottom - top);
    if (!c.title.empty()) s += format("<text x=\"%g\" y=\"30\" font-size=\"17\" font-weight=\"600\">%s</text>\n", left, escaped(c.title).c_str());
    for (double v : c.x.ticks(8)) {
        s += format("<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%g\" y2=\"%g\"/>", X(v), X(v), top, bottom);
        s += format("<text x=\"%.1f\" y=\"%g\" text-anchor=\"middle\">%s</text>\n", X(v), bottom + 19, short_number(v).c_str());
    }
    for (double v : c.y.ticks(7)) {
        s += format("<line class=\"grid\" x1=\"%g\" x2=\"%g\" y1=\"%.1f\" y2=\"%.1f\"/>", left, right, Y(v), Y(v));
        s += format("<text x=\"%g\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n", left - 8, Y(v) + 4.5, short_number(v).c_str());
    }
    s += format("<text class=\"dim\" x=\"%g\" y=\"%g\" text-anchor=\"middle\">%s</text>\n", (left + right) / 2, chart - 13, c.x.label.c_str());
    s += format("<text class=\"dim\" transform=\"translate(16 %g) rotate(-90)\" text-anchor=\"middle\">%s</text>\n<g clip-path=\"url(#plot)\">\n", (top + bottom) / 2, c.y.label.c_str());
    auto line = [&](const std::vector<Point> &points, const char *kind, size_t colour) {
        if (points.empty()) return;
        s += format("<polyline class=\"%s s%zu\" points=\"", kind, colour);
        std::vector<Point> shown = c.visible(points, 700);
        if (shown.size() == 1) shown.push_back(shown[0]);                                     // a line of no length with round ends: a dot
        for (const Point &p : shown) s += format("%.1f,%.1f ", X(p.x), Y(p.y));
        s += "\"/>\n";
    };
    auto band = [&](const std::vector<Point> &points, size_t colour) {
        std::string there, back;
        size_t every = points.size() / 350 + 1;
        for (size_t i = 0; i < points.size(); i += every) {
            const Point &p = points[i];
            if (!c.x.has(p.x) || !c.y.has(p.y - p.spread)) continue;
            there += format("%.1f,%.1f ", X(p.x), Y(p.y + p.spread)), back = format("%.1f,%.1f ", X(p.x), Y(p.y - p.spread)) + back;
        }
        if (!there.empty()) s += format("<polygon class=\"band f%zu\" points=\"%s%s\"/>\n", colour, there.c_str(), back.c_str());
    };
    for (size_t i = 0; i < c.runs.size(); i++)                                                // all thin lines lie below all thick ones
        if (c.noisy) c.runs[i].logs.size() > 1 ? band(c.runs[i].smooth, i % 8) : line(c.runs[i].train, "raw", i % 8);
    for (size_t i = 0; i < c.runs.size(); i++) line(c.runs[i].smooth, "smooth", i % 8);
    for (size_t i = 0; i < c.runs.size(); i++) {
        line(c.runs[i].val, "val", i % 8);
        if (c.runs[i].val.size() > 100) continue;                                             // so many would be a worm
        for (const Point &p : c.runs[i].val) {
            if (!c.x.has(p.x) || !c.y.has(p.y - p.spread)) continue;
            if (p.spread > 0) s += format("<line class=\"bar s%zu\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>", i % 8, X(p.x), X(p.x), Y(p.y - p.spread), Y(p.y + p.spread));
            s += format("<circle class=\"f%zu\" cx=\"%.1f\" cy=\"%.1f\" r=\"3.4\"/>", i % 8, X(p.x), Y(p.y));
        }
        s += "\n";
    }
    s += format("</g>\n<path class=\"frame\" d=\"M%g %gV%gH%g\" fill=\"none\"/>\n", left, top, bottom, right);

    for (size_t i = 0; i < c.runs.size(); i++) {                                              // the legend, below the chart
        double x = left + (i % columns) * 365, y = chart + 10 + 20 * (i / columns);
        s += format("<line class=\"smooth s%zu\" x1=\"%g\" x2=\"%g\" y1=\"%g\" y2=\"%g\"/>", i % 8, x, x + 22, y - 4.5, y - 4.5);
        if (!c.runs[i].val.empty()) s += format("<circle class=\"f%zu\" cx=\"%g\" cy=\"%g\" r=\"3.4\"/>", i % 8, x + 11, y - 4.5);
        s += format("<text x=\"%g\" y=\"%g\">%s</text>\n", x + 30, y, escaped(legend_text(c, c.runs[i], columns == 1 ? 60 : 26)).c_str());
    }
    if (!key.empty()) s += format("<text class=\"dim\" x=\"%g\" y=\"%g\" font-size=\"12\">%s</text>\n", left, chart + 10 + 20 * rows, escaped(key).c_str());
    return s + "</svg>\n";
}

// ------------------------------------------------------------------------------------------------
// The terminal

// The chart as 80 columns of text. Braille gives 2 x 4 dots a cell; the validation losses are letters over it.
struct TextChart {
    static const int width = 68, height = 18;
    bool braille, colour;
    unsigned char dots[height][width] = {}, letter[height][width] = {}, owner[height][width] = {};

    void point(double fx, double fy, size_t run, char mark) {  // fx, fy: 0..1; mark 0: dots
        if (!(fx >= 0 && fx <= 1 && fy >= 0 && fy <= 1)) return;
        int px = std::min(width * 2 - 1, (int)(fx * width * 2)), py = std::min(height * 4 - 1, (int)((1 - fy) * height * 4));
        static const unsigned char bit[4][2] = {{0x01, 0x08}, {0x02, 0x10}, {0x04, 0x20}, {0x40, 0x80}};
        dots[py / 4][px / 2] |= bit[py % 4][px % 2];
        if (mark) letter[py / 4][px / 2] = mark;
        owner[py / 4][px / 2] = run % 6;
    }
    void curve(const Chart &c, const std::vector<Point> &points, size_t run, char mark) {
        const Point *last = nullptr;
        std::vector<Point> shown = c.visible(points, width * 2);
        for (const Point &p : shown) {
            double x1 = c.x.at(p.x), y1 = c.y.at(p.y), x0 = last ? c.x.at(last->x) : x1, y0 = last ? c.y.at(last->y) : y1;
            int n = 1 + (int)(2 * std::max(fabs(x1 - x0) * width * 2, fabs(y1 - y0) * height * 4));
            for (int k = 1; k <= std::min(n, 1000); k++) point(x0 + (x1 - x0) * k / n, y0 + (y1 - y0) * k / n, run, mark);
            last = &p;
        }
    }
    std::string cell(int row, int column) const {
        std::string s;
        unsigned char d = dots[row][column], m = letter[row][column];
        if (m) s = (char)m;
        else if (!d || !braille) s = " ";
        else utf8_append(s, 0x2800 + d);
        return colour && s != " " ? format("\x1b[%dm%s\x1b[0m", 31 + (owner[row][column] + 3) % 6, s.c_str()) : s;
    }
};
static bool utf8_terminal() {
    for (const char *name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
        const char *value = getenv(name);
        if (value && *value) return strcasestr(value, "utf-8") || strcasestr(value, "utf8");
    }
    return false;
}
static void print_chart(const Chart &c) {
    TextChart t;
    t.colour = isatty(1), t.braille = utf8_terminal() && (t.colour || c.runs.size() == 1);    // without colours letters tell runs apart
    auto mark = [&](size_t run, bool val) { return c.runs.size() == 1 ? (val ? 'o' : '*') : (char)((val ? 'A' : 'a') + run % 26); };
    for (size_t i = 0; i < c.runs.size(); i++) t.curve(c, c.runs[i].smooth, i, t.braille ? 0 : mark(i, false));
    for (size_t i = 0; i < c.runs.size(); i++)
        for (const Point &p : c.runs[i].val) if (c.x.has(p.x) && c.y.has(p.y)) t.point(c.x.at(p.x), c.y.at(p.y), i, mark(i, true));

    if (!c.title.empty()) printf("%*s%s\n", std::max(0, 10 + (TextChart::width - (int)c.title.size()) / 2), "", c.title.c_str());
    std::vector<std::string> y_label(TextChart::height);
    for (double v : c.y.ticks(6)) y_label[std::min(TextChart::height - 1, std::max(0, (int)((1 - c.y.at(v)) * TextChart::height)))] = short_number(v);
    for (int row = 0; row < TextChart::height; row++) {
        printf("%9s %s", y_label[row].c_str(), t.braille ? (y_label[row].empty() ? "\u2502" : "\u2524") : y_label[row].empty() ? "|" : "+");
        for (int column = 0; column < TextChart::width; column++) fputs(t.cell(row, column).c_str(), stdout);
        puts("");
    }
    std::string rule, numbers(80, ' ');
    std::vector<bool> tick(TextChart::width);
    size_t free_from = 0;
    for (double v : c.x.ticks(6)) {
        int column = std::min(TextChart::width - 1, (int)(c.x.at(v) * TextChart::width));
        std::string text = short_number(v);
        size_t from = std::min<size_t>(11 + column - text.size() / 2, 80 - text.size());
        if (from < free_from) continue;
        numbers.replace(from, text.size(), text);
        free_from = from + text.size() + 1, tick[column] = true;
    }
    for (int column = 0; column < TextChart::width; column++) rule += t.braille ? (tick[column] ? "\u252c" : "\u2500") : tick[column] ? "+" : "-";
    printf("%10s%s%s\n%s\n", "", t.braille ? "\u2514" : "+", rule.c_str(), numbers.substr(0, numbers.find_last_not_of(' ') + 1).c_str());
    printf("%10s x: %s, y: %s\n", "", c.x.label.c_str(), c.y.label.c_str());
    for (size_t i = 0; i < c.runs.size(); i++) {
        std::string key;
        if (!c.runs[i].smooth.empty()) key = t.braille ? "\u2812" : std::string(1, mark(i, false));
        if (!c.runs[i].val.empty()) key += std::string(key.empty() ? "" : " ") + mark(i, true);
        printf("%10s %s  %s\n", "", t.colour ? format("\x1b[%dm%s\x1b[0m", 31 + (int)(i % 6 + 3) % 6, key.c_str()).c_str() : key.c_str(), legend_text(c, c.runs[i], 40).c_str());
    }
}

// ------------------------------------------------------------------------------------------------
// The report: what the runs are, what came out, what they write

struct Table { std::vector<std::string> head; std::vector<std::vector<std::string>> rows; };

static double median(std::vector<double> v) {
    v.erase(std::remove_if(v.begin(), v.end(), [](double x) { return std::isnan(x); }), v.end());
    if (v.empty()) return NAN;
    std::nth_element(v.begin(), v.begin() + v.size() / 2, v.end());
    return v[v.size() / 2];
}

// The mean training loss over the steps after `from` and up to `to`, over the logs
static Mean train_between(const Run &run, int64_t from, int64_t to) {
    Mean over_logs;
    for (const Log &log : run.logs) {
        Mean m;
        for (const Mark &mark : log.train) if (mark.step > from && mark.step <= to) m.add(mark.y);
        if (m.n) over_logs.add(m.mean());
    }
    return over_logs;
}
static Mean val_at(const Run &run, int64_t step) {
    Mean m;
    for (const Log &log : run.logs) for (const Mark &mark : log.val) if (mark.step == step) m.add(mark.y);
    return m;
}
// The steps at which some run was validated, from 0
static std::vector<int64_t> evaluated(const std::vector<Run> &runs) {
    std::map<int64_t, bool> steps = {{0, true}};
    for (const Run &run : runs) for (const Log &log : run.logs) for (const Mark &m : log.val) steps[m.step];
    std::vector<int64_t> list;
    for (auto &s : steps) list.push_back(s.first);
    return list;
}
static Table summary(const std::vector<Run> &runs) {
    Table t{{"", "parameters", "steps", "tokens", "training loss", "validation loss", "lowest (step)", "ms/step", "tokens/s", "memory"}, {}};
    for (const Run &run : runs) {
        Mean val, lowest;
        std::vector<double> ms, speed;
        int64_t last = 0, before = 0, lowest_step = 0;
        double tokens = 0, memory = 0;
        for (const Log &log : run.logs) {
            size_t skip = std::max<size_t>(2, log.ms.size() / 5);            // the first steps plan, tune and capture
            if (log.ms.size() > skip) ms.insert(ms.end(), log.ms.begin() + skip, log.ms.end()), speed.insert(speed.end(), log.speed.begin() + skip, log.speed.end());
            if (!log.train.empty()) last = std::max(last, log.train.back().step), tokens = std::max(tokens, log.train.back().tokens);
            memory = std::max(memory, strtod(log.fact("memory").c_str(), nullptr));
            if (log.val.empty()) continue;
            const Mark &low = *std::min_element(log.val.begin(), log.val.end(), [](const Mark &a, const Mark &b) { return a.y < b.y; });
            val.add(log.val.back().y), lowest.add(low.y), lowest_step = std::max(lowest_step, low.step);
        }
        for (int64_t step : evaluated({run})) if (step < last) before = step;
        std::string parameters = run.logs[0].fact("parameters");
        t.rows.push_back({run.name + (run.logs.size() > 1 ? format(" (%zu seeds)", run.logs.size()) : ""), parameters.empty() ? "-" : thousands(atoll(parameters.c_str())), thousands(last), thousands(llround(tokens)),
                          train_between(run, before, last).text(), val.text(), lowest.n ? lowest.text() + format(" (%s)", thousands(lowest_step).c_str()) : "-",
                          ms.empty() ? "-" : format("%.4g", median(ms)), ms.empty() ? "-" : thousands(llround(median(speed))), memory > 0 ? format("%.1f MB", memory / 1e6) : "-"});
    }
    return t;
}
static Table losses(const std::vector<Run> &runs) {
    Table t{{"step"}, {}};
    for (const Run &run : runs) t.head.push_back(run.name + ", train"), t.head.push_back(run.name + ", val");
    std::vector<int64_t> steps = evaluated(runs);
    size_t every = std::max<size_t>(1, (steps.size() + 10) / 12), last = steps.size() - 1;
    for (size_t i = 1; i < steps.size(); i++) {
        if (i % every && i != last) continue;
        t.rows.push_back({thousands(steps[i])});
        for (const Run &run : runs) t.rows.back().push_back(train_between(run, steps[i - 1], steps[i]).text()), t.rows.back().push_back(val_at(run, steps[i]).text());
    }
    return t;
}
static std::string shortest(const std::string &text) {  // 0.0030000000000000001 -> 0.003: the shortest with the same value
    char *end;
    double v = strtod(text.c_str(), &end);
    if (text.find('.') == std::string::npos || *end) return text;
    int digits = 1;
    while (digits < 17 && strtod(format("%.*g", digits, v).c_str(), nullptr) != v) digits++;
    return format("%.*g", digits, v);
}
// A row an option or fact, a column a run; the rows in which the runs differ come first.
static Table configuration(const std::vector<Run> &runs) {
    Table same, different{{""}, {}};
    std::vector<std::string> keys;
    auto pairs = [](const Log &log) {
        std::vector<std::pair<std::string, std::string>> all;
        for (auto &f : log.facts) if (f.first != "tokenizer_hash") all.push_back({f.first, f.first == "memory" ? format("%.1f MB", strtod(f.second.c_str(), nullptr) / 1e6) : f.first == "parameters" ? thousands(atoll(f.second.c_str())) : f.second});
        for (auto &o : log.options) all.push_back({o.first == "program" ? o.first : "--" + o.first, shortest(o.second)});
        return all;
    };
    for (const Run &run : runs) {
        different.head.push_back(run.name);
        for (const Log &log : run.logs) for (auto &p : pairs(log)) if (std::find(keys.begin(), keys.end(), p.first) == keys.end()) keys.push_back(p.first);
    }
    for (const std::string &key : keys) {
        std::vector<std::string> row = {key};
        for (const Run &run : runs) {
            std::vector<std::string> values;                                 // of the seeds, each value once
            for (const Log &log : run.logs) for (auto &p : pairs(log)) if (p.first == key && std::find(values.begin(), values.end(), p.second) == values.end()) values.push_back(p.second);
            std::string all;
            for (const std::string &v : values) all += (all.empty() ? "" : ", ") + v;
            row.push_back(all);
        }
        bool equal = std::all_of(row.begin() + 1, row.end(), [&](const std::string &v) { return v == row[1]; });
        if (!equal || row[1] != "") (equal ? same : different).rows.push_back(row);
    }
    different.rows.insert(different.rows.end(), same.rows.begin(), same.rows.end());
    return different;
}

static std::string markdown(const Table &t) {
    auto row = [](const std::vector<std::string> &cells) {
        std::string s = "|";
        for (std::string c : cells) {
            for (size_t i = 0; (i = c.find('|', i)) != std::string::npos; i += 2) c.insert(i, "\\");
            s += " " + c + " |";
        }
        return s + "\n";
    };
    std::string s = row(t.head) + "|";
    for (size_t i = 0; i < t.head.size(); i++) s += i ? "---:|" : "---|";
    s += "\n";
    for (auto &r : t.rows) s += row(r);
    return s;
}
static std::string markdown_report(const Chart &c) {
    std::string s = markdown(summary(c.runs)), key = c.runs.size() && std::any_of(c.runs.begin(), c.runs.end(), [](const Run &r) { return r.logs.size() > 1; }) ? "; ± is one standard deviation over the seeds" : "";
    s += "\nLosses are nats per token, the training loss is the mean since the evaluation before" + key + ". ms/step and tokens/s are medians without the first fifth and without evaluations.\n";
    Table by_step = losses(c.runs);
    if (!by_step.rows.empty()) s += "\n" + markdown(by_step);
    for (const Run &run : c.runs) {
        const Log &log = run.logs[0];
        if (log.samples.empty()) continue;
        s += format("\n%s, step %s, writes:\n\n    ", run.name.c_str(), thousands(log.samples.back().step).c_str());
        for (char ch : log.samples.back().text) s += ch == '\n' ? "\n    " : std::string(1, ch);   // a code block, whatever is in it
        s += "\n";
    }
    return s;
}

static std::string html(const Table &t, const char *kind) {
    std::string s = format("<div class=\"wide\"><table class=\"%s\"><tr>", kind);
    for (auto &cell : t.head) s += "<th>" + escaped(cell) + "</th>";
    for (auto &row : t.rows) {
        s += std::all_of(row.begin() + 1, row.end(), [&](const std::string &v) { return v == row[1]; }) ? "</tr>\n<tr>" : "</tr>\n<tr class=\"differs\">";
        for (auto &cell : row) s += "<td>" + escaped(cell) + "</td>";
    }
    return s + "</tr></table></div>\n";
}
static std::string escaped_lines(const std::string &text) {
    std::string s, line;
    for (size_t i = 0, end; i <= text.size(); i = end + 1) end = std::min(text.find('\n', i), text.size()), s += escaped(text.substr(i, end - i)) + "\n";
    return s;
}
static const char *const HTML_STYLE =
    ":root{color-scheme:light dark}body{font:15px/1.5 system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;max-width:1120px;margin:2.5em auto;padding:0 1.2em;background:#fff;color:#1f2328}"
    "h1{font-size:1.6em;margin:0 0 .2em}h2{font-size:1.15em;margin:2em 0 .6em}p{color:#59636e;margin:.4em 0}svg{width:100%;max-width:900px;height:auto;display:block;margin:1em 0}"
    ".wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:13.5px}th,td{padding:.3em .6em;border-bottom:1px solid #d8dee4;text-align:right;white-space:nowrap}"
    "th{font-weight:600}th:first-child,td:first-child{text-align:left}.options td,.options th{text-align:left}.options.many .differs td{background:#fff8c5}"
    "pre{background:#f6f8fa;padding:1em;border-radius:6px;white-space:pre-wrap;overflow-wrap:anywhere;font:13px/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}summary{cursor:pointer;color:#59636e}"
    "@media(prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}p,summary{color:#9198a1}th,td{border-color:#2f3742}.options.many .differs td{background:#2b2611}pre{background:#161b22}}";

static std::string html_report(const std::vector<Chart> &charts) {
    const std::vector<Run> &runs = charts[0].runs;
    std::string title = charts[0].title.empty() ? runs.size() == 1 ? runs[0].name : "Training runs" : charts[0].title;
    std::string s = "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>" + escaped(title) + "</title>\n<style>" + HTML_STYLE + "</style></head><body>\n<h1>" + escaped(title) + "</h1>\n<h2>Results</h2>\n";
    s += html(summary(runs), "numbers") + "<p>Losses are nats per token, the training loss is the mean since the evaluation before; ± is one standard deviation over seeds. ms/step and tokens/s are medians without the first fifth and without evaluations.</p>\n<h2>Curves</h2>\n";
    for (Chart c : charts) c.title = "", s += svg(c);
    Table by_step = losses(runs);
    if (!by_step.rows.empty()) s += "<h2>Loss by step</h2>\n" + html(by_step, "numbers");
    std::string newest, older;                                           // of the first log of each run; all others
    for (const Run &run : runs)
        for (const Log &log : run.logs)
            for (size_t i = log.samples.size(); i-- > 0;) {
                std::string which = run.name + (run.logs.size() > 1 && run.name != default_name(log.path) ? " (" + default_name(log.path) + ")" : "");
                (&log == &run.logs[0] && i + 1 == log.samples.size() ? newest : older) +=
                    format("<p>%s, step %s</p><pre>", escaped(which).c_str(), thousands(log.samples[i].step).c_str()) + escaped_lines(log.samples[i].text) + "</pre>\n";
            }
    if (!newest.empty()) s += "<h2>Samples</h2>\n" + newest;
    if (!older.empty()) s += "<details><summary>More samples: earlier ones, other seeds</summary>\n" + older + "</details>\n";
    s += "<h2>Configuration</h2>\n" + html(configuration(runs), runs.size() > 1 ? "options many" : "options");
    return s + "</body></html>\n";
}

// ------------------------------------------------------------------------------------------------
// The program

static Chart make_chart(const std::vector<Run> &runs, const Measure &measure, const std::string &axis, double smoothing) {
    Chart c;
    c.runs = runs, c.noisy = measure.noisy, c.loss = !strcmp(measure.name, "loss"), c.y.label = measure.label;
    double longest = 0;
    for (Run &r : c.runs) {
        draw_run(r, axis, measure.noisy ? smoothing : 0);
        for (auto *s : {&r.train, &r.smooth, &r.val}) if (!s->empty()) longest = std::max(longest, s->back().x);
    }
    double unit = axis != "seconds" || longest < 300 ? 1 : longest < 3 * 3600 ? 60 : 3600;
    c.x.label = unit == 60 ? "minutes" : unit == 3600 ? "hours" : axis;
    for (Run &r : c.runs) for (auto *s : {&r.train, &r.smooth, &r.val}) for (Point &p : *s) p.x /= unit;
    return c;
}
static void save(const std::string &path, const std::string &text) {
    OutputFile file(path);
    file.write(text.data(), text.size());
    file.commit();
    printf("%10s wrote %s\n", "", path.c_str());
}

int main(int argc, char **argv) {
    return run_main([&] {
        std::string out, html, md, axis, y, title;
        double smoothing, y_max;
        bool log_x, log_y, zero;
        Options options("plot", "draws the curves of logs: plot run.jsonl [more.jsonl ...], or plot NAME: seed1.jsonl seed2.jsonl ... NAME: ...", {
            {"out", &out, "", "", "SVG file to write besides the chart in the terminal"},
            {"html", &html, "", "", "report to write: curves, results, samples, configuration"},
            {"markdown", &md, "", "", "the same as tables and samples in Markdown"},
            {"x", &axis, "steps", "steps|tokens|seconds", "what runs to the right"},
            {"y", &y, "loss", MEASURES, "what runs up"},
            {"smooth", &smoothing, 0.9, 0, 0.9999, "how smooth the thick line is: the mean of about 2/(1-X) steps; 0: as logged"},
            {"log-x", &log_x, "logarithmic x axis"},
            {"log-y", &log_y, "logarithmic y axis"},
            {"zero", &zero, "let the y axis begin at 0"},
            {"y-max", &y_max, 0, 0, 1e30, "where the y axis ends; 0: above the highest point"},
            {"title", &title, "", "", "written above the chart"},
        });
        options.takes_words = true;
        options.parse(argc, argv);
        if (title.size() > 80) fail("--title has %zu characters, and the chart has room for 80", title.size());
        if (y != "loss" && !(html + md).empty()) usage_fail("--html and --markdown report the loss; leave --y away");
        if (log_y && zero) usage_fail("--zero and --log-y exclude each other: a logarithmic axis has no 0");
        const Measure *measure = measures;
        while (y != measure->name) measure++;
        std::vector<Run> runs = read_runs(options.words, *measure);

        auto chart = [&](const std::string &axis) {
            Chart c = make_chart(runs, *measure, axis, smoothing);
            c.title = title, c.x.log = log_x, c.y.log = log_y;
            // The thin lines do not set the scale: one wild step would flatten all the rest.
            for (Run &r : c.runs) for (auto *s : {&r.smooth, &r.val}) for (const Point &p : *s) c.x.include(p.x), c.y.include(p.y);
            if (zero) c.y.include(0);
            if (y_max > 0) c.y.high = std::min(c.y.high, y_max), c.y.low = std::min(c.y.low, c.y.high);
            c.x.widen(0.012), c.y.widen(0.05);
            if (zero) c.y.low = 0;
            return c;
        };
        Chart c = chart(axis);
        print_chart(c);
        if (!out.empty()) save(out, svg(c));
        if (!md.empty()) save(md, markdown_report(c));
        if (html.empty()) return 0;
        std::vector<Chart> charts = {c};
        bool timed = std::all_of(runs.begin(), runs.end(), [](const Run &r) { return !r.logs[0].ms.empty(); });
        if (timed && axis != "seconds") charts.push_back(chart("seconds"));
        save(html, html_report(charts));
        return 0;
    });
}
