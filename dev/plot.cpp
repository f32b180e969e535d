/* dev/plot.cpp: loss curves of any number of runs, in the terminal and as an SVG.

       ./plot run.jsonl [more.jsonl ...] [--out loss.svg] [--x steps|tokens|seconds] [--log-x] [--log-y]

   Reads the logs of rwkv/log.h: lines with "loss" are the training curve (thin: as logged, thick: smoothed), lines
   with "val_loss" the validation points. Seconds are the sum of "ms" over the steps. Lines whose loss is null or NaN
   are left out with a note. The half line at the end of a log that is being written is left out without one.
   The SVG carries its own style for light and dark pages; the terminal chart is drawn in braille dots where the
   locale is UTF-8, else in ASCII, 80 columns wide. */
#include "../rwkv/log.h"
#include "../rwkv/options.h"

struct Point { double x, y; };
struct Run {
    std::string name;
    std::vector<Point> train, smooth, val;
    int skipped = 0;
};

// Reads one log; x in the unit of `axis`.
static Run read_log(const std::string &path, const std::string &axis, double smoothing) {
    std::ifstream in(path);
    struct stat info;
    if (stat(path.c_str(), &info) || !in) fail("%s cannot be opened (%s)", path.c_str(), strerror(errno));
    if (S_ISDIR(info.st_mode)) fail("%s is a folder; pass the run's log, the file given to --log", path.c_str());
    Run run;
    run.name = path.size() > 6 && path.substr(path.size() - 6) == ".jsonl" ? path.substr(0, path.size() - 6) : path;
    double ms = 0, tokens = 0;
    Ema ema(smoothing);
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
            if (number > 1 && (line.find("NaN") != std::string::npos || line.find("Infinity") != std::string::npos)) { run.skipped++; continue; }  // not JSON, but common
            fail("%s line %d is no JSON object; pass a log written with --log", path.c_str(), number);
        }
        auto number_at = [&](const char *key) { const Json *n = j.find(key); return n && n->type == Json::Number ? n->number : NAN; };
        double step = number_at("step"), loss = number_at("loss"), val = number_at("val_loss");
        for (double *v : {&loss, &val}) if (!(fabs(*v) < 1e30)) *v = NAN;      // a run gone wild: as good as infinite
        if (std::isnan(step)) continue;                                        // the options
        if (j.find("loss")) {
            double took = number_at("ms"), seen = number_at("tokens");
            ms += std::isnan(took) ? 0 : took;
            tokens = std::isnan(seen) ? tokens : seen;
        }
        double x = axis == "steps" ? step : axis == "tokens" ? tokens : ms / 1000;
        if (!std::isnan(loss)) {
            ema.add(loss);
            run.train.push_back({x, loss}), run.smooth.push_back({x, ema.value()});
        }
        if (!std::isnan(val)) run.val.push_back({x, val});
        run.skipped += std::isnan(loss) && std::isnan(val);
    }
    if (run.train.empty() && run.val.empty()) fail("%s has no step with a loss to draw; train with --log %s first", path.c_str(), path.c_str());
    if (run.skipped) fprintf(stderr, "note: %s: %d line%s without a finite loss left out\n", path.c_str(), run.skipped, run.skipped == 1 ? "" : "s");
    return run;
}

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

// Blue, orange, green, ...: told apart by the colour-blind too; the second row is for dark pages.
static const char *const COLOURS[2][8] = {{"#0969da", "#bc4c00", "#1a7f37", "#8250df", "#bf3989", "#0a7a83", "#9a6700", "#57606a"},
                                          {"#58a6ff", "#f0883e", "#3fb950", "#bc8cff", "#f778ba", "#39c5cf", "#d4a72c", "#9ea7b3"}};

static std::string style(int dark) {
    std::string s = dark ? ".bg{fill:#0d1117}text{fill:#d0d7de}.grid{stroke:#2a3038}.frame{stroke:#6e7681}"
                         : ".bg{fill:#ffffff}text{fill:#24292f}.grid{stroke:#e4e8ec}.frame{stroke:#8c959f}";
    for (int i = 0; i < 8; i++) s += format(".s%d{stroke:%s}.f%d{fill:%s}", i, COLOURS[dark][i], i, COLOURS[dark][i]);
    return s;
}
static std::string shortened(const std::string &name, size_t length) {  // the end of a path tells more than its beginning
    if (name.size() <= length) return name;
    size_t from = name.size() - (length - 3);
    while (from < name.size() && (name[from] & 0xC0) == 0x80) from++;   // not into a UTF-8 character
    return "..." + name.substr(from);
}
static std::string legend_text(const Run &run, size_t length) {
    std::string s = shortened(run.name, length) + ":", comma;
    auto add = [&](const char *what, const std::vector<Point> &points) {
        if (points.empty()) return;
        s += format(fabs(points.back().y) < 1e4 ? "%s %s %.3f" : "%s %s %.3g", comma.c_str(), what, points.back().y);
        comma = ",";
    };
    add("train", run.smooth), add("val", run.val);
    return s;
}

static std::string svg(const Chart &c) {
    const double W = 800, chart = 480, H = chart + 12 + 18 * ((c.runs.size() + 1) / 2), left = 62, right = W - 22, top = c.title.empty() ? 20 : 44, bottom = chart - 52;
    auto X = [&](double v) { return left + c.x.at(v) * (right - left); };
    auto Y = [&](double v) { return bottom - c.y.at(v) * (bottom - top); };
    std::string s = format("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %g %g\" width=\"%g\" height=\"%g\" font-family=\"system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif\" font-size=\"12\">\n", W, H, W, H);
    s += "<style>" + style(0) + "polyline{fill:none;stroke-linejoin:round;stroke-linecap:round}.raw{stroke-width:1;opacity:.3}.smooth{stroke-width:2}.val{stroke-width:1.5;stroke-dasharray:5 3}"
         "\n@media(prefers-color-scheme:dark){" + style(1) + "}</style>\n";
    s += format("<rect class=\"bg\" width=\"%g\" height=\"%g\"/>\n<clipPath id=\"plot\"><rect x=\"%g\" y=\"%g\" width=\"%g\" height=\"%g\"/></clipPath>\n", W, H, left, top, right - left, bottom - top);
    if (!c.title.empty()) s += format("<text x=\"%g\" y=\"28\" font-size=\"16\" font-weight=\"600\" text-anchor=\"middle\">%s</text>\n", (left + right) / 2, escaped(c.title).c_str());
    for (double v : c.x.ticks(8)) {
        s += format("<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%g\" y2=\"%g\"/>", X(v), X(v), top, bottom);
        s += format("<text x=\"%.1f\" y=\"%g\" text-anchor=\"middle\">%s</text>\n", X(v), bottom + 18, short_number(v).c_str());
    }
    for (double v : c.y.ticks(7)) {
        s += format("<line class=\"grid\" x1=\"%g\" x2=\"%g\" y1=\"%.1f\" y2=\"%.1f\"/>", left, right, Y(v), Y(v));
        s += format("<text x=\"%g\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n", left - 8, Y(v) + 4, short_number(v).c_str());
    }
    s += format("<text x=\"%g\" y=\"%g\" text-anchor=\"middle\">%s</text>\n", (left + right) / 2, chart - 16, c.x.label.c_str());
    s += format("<text transform=\"translate(16 %g) rotate(-90)\" text-anchor=\"middle\">%s</text>\n<g clip-path=\"url(#plot)\">\n", (top + bottom) / 2, c.y.label.c_str());
    auto line = [&](const std::vector<Point> &points, const char *kind, size_t colour) {
        if (points.empty()) return;
        s += format("<polyline class=\"%s s%zu\" points=\"", kind, colour);
        std::vector<Point> shown = c.visible(points, 700);
        if (shown.size() == 1) shown.push_back(shown[0]);                                     // a line of no length with round ends: a dot
        for (const Point &p : shown) s += format("%.1f,%.1f ", X(p.x), Y(p.y));
        s += "\"/>\n";
    };
    for (size_t i = 0; i < c.runs.size(); i++) line(c.runs[i].train, "raw", i % 8);           // all thin lines lie below all thick ones
    for (size_t i = 0; i < c.runs.size(); i++) line(c.runs[i].smooth, "smooth", i % 8);
    for (size_t i = 0; i < c.runs.size(); i++) {
        line(c.runs[i].val, "val", i % 8);
        if (c.runs[i].val.size() > 100) continue;                                             // so many would be a worm
        for (const Point &p : c.runs[i].val) if (c.x.has(p.x) && c.y.has(p.y)) s += format("<circle class=\"f%zu\" cx=\"%.1f\" cy=\"%.1f\" r=\"3.2\"/>", i % 8, X(p.x), Y(p.y));
        s += "\n";
    }
    s += format("</g>\n<rect class=\"frame\" x=\"%g\" y=\"%g\" width=\"%g\" height=\"%g\" fill=\"none\"/>\n", left, top, right - left, bottom - top);

    for (size_t i = 0; i < c.runs.size(); i++) {                                              // the legend: two columns below the chart
        double x = left + (i % 2) * 370, y = chart + 10 + 18 * (i / 2);
        s += format("<line class=\"smooth s%zu\" x1=\"%g\" x2=\"%g\" y1=\"%g\" y2=\"%g\"/>", i % 8, x, x + 20, y - 4, y - 4);
        if (!c.runs[i].val.empty()) s += format("<circle class=\"f%zu\" cx=\"%g\" cy=\"%g\" r=\"3.2\"/>", i % 8, x + 10, y - 4);
        s += format("<text x=\"%g\" y=\"%g\">%s</text>\n", x + 28, y, escaped(legend_text(c.runs[i], 26)).c_str());
    }
    return s + "</svg>\n";
}

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
        printf("%10s %s  %s\n", "", t.colour ? format("\x1b[%dm%s\x1b[0m", 31 + (int)(i % 6 + 3) % 6, key.c_str()).c_str() : key.c_str(), legend_text(c.runs[i], 40).c_str());
    }
}

int main(int argc, char **argv) {
    return run_main([&] {
        std::string out, axis, title;
        double smoothing;
        bool log_x, log_y;
        Options options("plot", "draws the loss curves of logs: plot run.jsonl [more.jsonl ...]", {
            {"out", &out, "", "", "SVG file to write besides the chart in the terminal"},
            {"x", &axis, "steps", "steps|tokens|seconds", "what runs to the right"},
            {"smooth", &smoothing, 0.9, 0, 0.9999, "share of the past in the smoothed loss; 0: none"},
            {"log-x", &log_x, "logarithmic x axis"},
            {"log-y", &log_y, "logarithmic y axis"},
            {"title", &title, "", "", "written above the chart"},
        });
        options.takes_words = true;
        options.parse(argc, argv);
        if (options.words.empty()) usage_fail("plot needs a log: plot run.jsonl [more.jsonl ...] [--out loss.svg]");
        Chart c;
        if (title.size() > 90) fail("--title has %zu characters, and the chart has room for 90", title.size());
        c.title = title, c.x.log = log_x, c.y.log = log_y;
        for (const std::string &path : options.words) c.runs.push_back(read_log(path, axis, smoothing));

        double longest = 0;
        for (const Run &r : c.runs) for (auto *s : {&r.train, &r.val}) if (!s->empty()) longest = std::max(longest, s->back().x);
        double unit = axis != "seconds" || longest < 300 ? 1 : longest < 3 * 3600 ? 60 : 3600;
        c.x.label = unit == 60 ? "minutes" : unit == 3600 ? "hours" : axis;
        c.y.label = "loss (nats per token)";
        // The thin lines do not set the scale: one wild step would flatten all the rest.
        for (Run &r : c.runs) {
            for (auto *s : {&r.train, &r.smooth, &r.val}) for (Point &p : *s) p.x /= unit;
            for (auto *s : {&r.smooth, &r.val}) for (const Point &p : *s) c.x.include(p.x), c.y.include(p.y);
        }
        c.x.widen(0), c.y.widen(0.05);
        print_chart(c);
        if (!out.empty()) {
            std::string text = svg(c);
            OutputFile file(out);
            file.write(text.data(), text.size());
            file.commit();
            printf("%10s wrote %s\n", "", out.c_str());
        }
        return 0;
    });
}
