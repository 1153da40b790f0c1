// Suffix automata for Python, and what can be asked of them in one call.

#include "suffix_automaton.h"
#include "survival.h"

extern "C" {

SuffixAutomaton* text_new() { return new SuffixAutomaton; }

void text_free(SuffixAutomaton* text) { delete text; }

int64_t text_match(const SuffixAutomaton* text) { return text->match(); }

// Appends tokens and returns the match after them. Each moves every rate to 1 if it was the guess, else to 0, as far as `decays` say.
int64_t text_follow(SuffixAutomaton* text, const int64_t* tokens, int64_t count, double* rates, int64_t spans,
                    const double* decays, int64_t) {
    for (int64_t n = 0; n < count; n++) {
        if (spans) {
            const double hit = text->suffix().guess == tokens[n];
            for (int64_t i = 0; i < spans; i++) {
                const volatile double left = (rates[i] - hit) * decays[i];  // never fused with the sum
                rates[i] = hit + left;
            }
        }
        text->append(int32_t(tokens[n]));
    }
    return text->match();
}

void text_suffix(const SuffixAutomaton* text, Suffix* end) { *end = text->suffix(); }

void suffix_append(const SuffixAutomaton* text, Suffix* end, int64_t token) { text->append(*end, int32_t(token)); }

// What followed the longest suffix that occurred earlier, at most `length` tokens. With a `head`, the
// draft ends after the token at which the chance that all of it survives falls under `least`, and
// `chances` are set. `previous` is the text's last token. Returns the number of tokens.
int64_t lookup_draft(const SuffixAutomaton* text, const SurvivalHead* head, int64_t previous, int64_t length,
                     double least, int64_t* tokens, double* chances) {
    Suffix end = text->suffix();
    double whole = 1;
    int64_t count = 0;
    while (count < length && end.guess >= 0 && (!head || whole >= least)) {
        const int64_t token = tokens[count] = end.guess;
        if (head) whole *= chances[count] = head->chance(token, previous, 0, 0, end.match, true);
        if (++count < length) text->append(end, int32_t(token));
        previous = token;
    }
    return count;
}

// `decoding/forecast.py`: the tokens that a lookup after `previous` is expected to get accepted, and
// the chance of the first one.
void lookup_forecast(const SuffixAutomaton* text, const SurvivalHead* head, int64_t previous, int64_t depth,
                     double negligible, double* found) {
    std::vector<int64_t> tokens(depth);
    std::vector<double> chances(depth);
    const int64_t count = lookup_draft(text, head, previous, depth, negligible, tokens.data(), chances.data());
    double whole = 1;
    found[0] = 0, found[1] = count ? chances[0] : 0;
    for (int64_t n = 0; n < count; n++) found[0] += whole *= chances[n];
}

}  // extern "C"
