/* run/chat.h: run_rwkv chat: a conversation; the state carries it from turn to turn.

       User: {message}\n\nAssistant:            the template of the World and G1 models; no blank after the colon
       Bob: ... Alice:                          that of the Pile models (NeoX tokenizer)

   --system TEXT goes first, as "System: TEXT\n\n". --think on lets a G1 model think (" <think" after the colon), fake
   gives it an empty thought. In a message runs of line breaks become one, since an empty line ends a turn.

   An answer ends at the end-of-text token or where the next "\n\nUser:" would begin. What the state has read must then be
   exactly the conversation: it is, if the answer ended at a token; if the model had already read a part of "\n\nUser:",
   the turn is read again from the state before it. These states are kept (the last 32), which is also /undo.

   Ctrl-C stops an answer, which then ends there; at the prompt it starts the line again; Ctrl-D or /quit leaves.
   After an error (bytes that are not UTF-8, a file that is not there) a conversation at a terminal goes on; a script's ends.
   defines: Chat, chat_main */
#pragma once
#include "generate.h"
#include <deque>

// A line from the terminal, in its own line mode (which has backspace, Ctrl-W, Ctrl-U); a \ at the end joins the next.
// False at the end of input. `interrupted`: Ctrl-C.
inline bool read_line(std::string &line, bool &interrupted) {
    static std::string buffer;
    line.clear(), interrupted = false;
    for (;;) {
        size_t end = buffer.find('\n');
        if (end != buffer.npos) {
            std::string part = buffer.substr(0, end);
            buffer.erase(0, end + 1);
            if (!part.empty() && part.back() == '\r') part.pop_back();
            bool more = !part.empty() && part.back() == '\\';
            if (more) part.back() = '\n';
            line += part;
            if (!more) return true;
            continue;
        }
        char bytes[4096];
        ssize_t n = read(0, bytes, sizeof bytes);
        if (n < 0 && errno == EINTR) {
            buffer.clear(), line.clear(), interrupted = true;
            return true;
        }
        if (n <= 0) {
            line += buffer, buffer.clear();
            return !line.empty();
        }
        buffer.append(bytes, n);
    }
}
// \r\n -> \n, runs of line breaks -> one, no blanks at the ends
inline std::string clean_message(const std::string &text) {
    std::string s;
    for (char c : text) if (c != '\r' && !(c == '\n' && !s.empty() && s.back() == '\n')) s += c;
    size_t from = s.find_first_not_of(" \t\n"), to = s.find_last_not_of(" \t\n");
    return from == s.npos ? "" : s.substr(from, to - from + 1);
}

struct ChatOptions : TextOptions { std::string user, bot, system, think; };

struct Chat {
    Engine &e;
    Tokenizer &t;
    ChatOptions o;
    real *state;
    std::string gap;  // what must be read before the next turn: "\n\n", or nothing
    struct Turn { std::vector<real> before; std::string gap, message; };
    std::deque<Turn> turns;
    uint64_t draws = 0;  // random numbers used: /regen gives another answer

    Chat(Engine &e, Tokenizer &t, const ChatOptions &options) : e(e), t(t), o(options), state(e.new_states(1)) {
        e.sampling.vocabulary(&t);
        bool pile = t.kind == "neox";
        if (o.user.empty()) o.user = pile ? "Bob" : "User";
        if (o.bot.empty()) o.bot = pile ? "Alice" : "Assistant";
        if (o.stop.empty()) o.stop = "\n\n" + o.user + ":";
        reset();
    }
    void feed(const std::string &text, const char *what) {
        std::vector<int> ids = prompt_ids(t, text, what, false);
        e.forward(ids.data(), ids.size(), state, Engine::LAST);
    }
    void reset() {
        turns.clear(), gap.clear();
        if (!o.state_in.empty()) gap = e.load_state(o.state_in, state)["gap"];
        else e.zero_state(state);
        if (!o.system.empty()) feed("System: " + clean_message(o.system) + "\n\n", "--system");
    }
    std::string question(const std::string &gap, const std::string &message) const {
        static const std::map<std::string, const char *> thoughts = {{"off", ""}, {"on", " <think"}, {"fake", " <think>\n</think"}};
        return gap + o.user + ": " + message + "\n\n" + o.bot + ":" + thoughts.at(o.think);
    }
    void answer(const std::string &message) {
        try { turn(message); }
        catch (const Error &) { print("\n"), undo(); throw; }  // such as bytes that are not UTF-8: as if it had not been
    }
    void turn(const std::string &message) {
        turns.push_back({e.get_state(state), gap, message});
        if (turns.size() > 32) turns.pop_front();
        std::string ask = question(gap, message);
        feed(ask, "the message");
        Writer w(t, o);
        e.begin_text(0, o.s, o.rng(draws));
        std::string read, whole;  // what the state has read of the answer; what was printed
        for (int token = w.end == Writer::GOING ? e.draw(0) : 0; w.end == Writer::GOING && !stop_signal();) {
            std::string text;
            w.take(token, text), print(text), whole += text;
            if (w.end == Writer::END_OF_TEXT || w.end == Writer::STOP) break;
            read += t.bytes(token);
            if (w.end == Writer::GOING) e.decode_draw(&token, 1, state, nullptr, &token);
            else e.decode(&token, 1, state, nullptr, nullptr);
        }
        if (w.end == Writer::GOING) { std::string text; w.finish(text), print(text), whole += text; }
        print("\n\n");
        draws += w.made, stop_signal() = 0;
        gap = "\n\n";
        if (read == whole) return;
        if (read == whole + "\n\n") { gap.clear(); return; }
        e.set_state(state, turns.back().before);  // it has read more than the answer
        feed(ask + whole, "the answer");
    }
    bool undo(std::string *message = nullptr) {
        if (turns.empty()) { print("There is no turn to take back.\n"); return false; }
        e.set_state(state, turns.back().before), gap = turns.back().gap;
        if (message) *message = turns.back().message;
        turns.pop_back();
        return true;
    }
    // False: leave
    bool command(const std::string &line) {
        size_t space = line.find(' ');
        std::string word = line.substr(0, space), rest = space == line.npos ? "" : clean_message(line.substr(space)), message;
        bool file = word == "/save" || word == "/load";
        if (word == "/quit" || word == "/exit") return false;
        else if (word == "/reset") reset(), print("The conversation starts again.\n");
        else if (word == "/undo") { if (undo()) print("The last turn is taken back.\n"); }
        else if (word == "/regen") { if (undo(&message)) answer(message); }
        else if (file && rest.empty()) fail("%s needs the name of a file: %s FILE", word.c_str(), word.c_str());
        else if (word == "/save") e.save_state(rest, state, {{"gap", gap}}), print("The conversation is in " + rest + ".\n");
        else if (word == "/load") gap = e.load_state(rest, state)["gap"], turns.clear(), print("The conversation of " + rest + " goes on.\n");
        else print("/reset  start again          /undo  take the last turn back    /regen  another answer\n"
                   "/save FILE  /load FILE  the state of the conversation            /quit or Ctrl-D  leave\n"
                   "Ctrl-C stops an answer. A \\ at the end of a line joins the next.\n");
        return true;
    }
    // A line: a command or a message. False: leave
    bool take(const std::string &line) {
        if (!line.empty() && line[0] == '/') return command(line);
        std::string message = clean_message(line);
        if (!message.empty()) print("\n" + o.bot + ":"), answer(message);
        return true;
    }
    void run() {
        bool terminal = isatty(0), interrupted;
        struct sigaction a = {};
        a.sa_handler = [](int) { stop_signal() = 1; };  // without SA_RESTART: read() returns
        sigaction(SIGINT, &a, nullptr);
        if (terminal) print("/help lists the commands.\n\n");
        for (std::string line;;) {
            if (terminal) print(o.user + ": ");
            if (!read_line(line, interrupted)) break;
            stop_signal() = 0;
            if (interrupted) { print("\n"); continue; }
            try { if (!take(line)) break; }
            catch (const Error &error) {
                if (!terminal) throw;
                fprintf(stderr, "error: %s\n", error.what());
            }
        }
        if (terminal) print("\n");
        if (!o.state_out.empty()) e.save_state(o.state_out, state, {{"gap", gap}});
    }
};

inline int chat_main(int argc, char **argv) {
    ModelOptions m;
    ChatOptions o;
    std::vector<Option> table = m.table(), text = o.table();
    table.insert(table.end(), {
        {"user", &o.user, "", "", "what you are called [User; Bob for Pile models]"},
        {"bot", &o.bot, "", "", "what the model is called [Assistant; Alice]"},
        {"system", &o.system, "", "", "what the model is told first"},
        {"think", &o.think, "off", "off|on|fake", "G1 models: think before an answer, or an empty thought"}});
    table.insert(table.end(), text.begin(), text.end());
    Options options(argv[0], "a conversation with a model; /help inside it", table);
    options.parse(argc, argv);
    check_outputs(options, {"state-out"}, {"model", "tokenizer", "state-in"});
    std::unique_ptr<Engine> e = m.open();
    std::unique_ptr<Tokenizer> t = e->tokenizer(m.tokenizer);
    penalties_for(*t, options, o);
    Chat chat(*e, *t, o);
    chat.run();
    return 0;
}
