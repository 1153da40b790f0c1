// Picks from a trigram table, as `decoding/trigrams.py` and `decoding/picks.py` define them.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>

#include "noise.h"
#include "suffix_automaton.h"
#include "survival.h"

extern "C" {

struct Table {
    const uint64_t* starts;  // [1 + V + T + 1], where the candidates of each row begin
    const uint64_t* spans;   // [V + 1], where the rows after each last token begin
    const uint32_t* before;  // [T], the token before it
    const uint32_t* tokens;  // [E]
    const float* log_probs;  // [E]
    const float* repetition;
    int64_t repetitions, vocabulary;
    float sharpness;
};

// What chooses among candidates besides their probability.
struct Chance {
    float temperature;
    uint64_t seed;        // of the noise
    const float* values;  // the noise's table; null: no noise
    const float* slopes;
};

struct TablePick {
    int64_t token;
    double log_prob, entropy, margin, choice_margin, choice_margin_without_noise;
};

}  // extern "C"

namespace {

constexpr int MOST = 256;  // candidates: 255 of a row, and the one that followed the last time

struct Candidates {
    int64_t count;
    uint32_t tokens[MOST];
    float log_probs[MOST];
};

Candidates usual(const Table& table, int64_t previous, int64_t last) {
    int64_t row = 0;
    if (last < table.vocabulary) {
        const uint32_t* first = table.before + table.spans[last];
        const uint32_t* end = table.before + table.spans[last + 1];
        const uint32_t* place = previous < 0 ? end : std::lower_bound(first, end, uint32_t(previous));
        if (place < end && *place == uint32_t(previous))
            row = 1 + table.vocabulary + (place - table.before);
        else if (table.starts[1 + last] < table.starts[2 + last])
            row = 1 + last;
    }
    Candidates found;
    found.count = table.starts[row + 1] - table.starts[row];
    std::copy_n(table.tokens + table.starts[row], found.count, found.tokens);
    std::copy_n(table.log_probs + table.starts[row], found.count, found.log_probs);
    return found;
}

Candidates mixed(const Candidates& usual, uint32_t token, float weight) {
    float probs[MOST];
    uint32_t tokens[MOST];
    int64_t count = usual.count;
    bool known = false;
    for (int64_t n = 0; n < count; n++) {
        tokens[n] = usual.tokens[n];
        probs[n] = std::exp(usual.log_probs[n]) * (1 - weight);
        if (tokens[n] == token) probs[n] += weight, known = true;
    }
    if (!known) tokens[count] = token, probs[count++] = weight;
    int order[MOST];
    std::iota(order, order + count, 0);
    std::stable_sort(order, order + count, [&](int a, int b) { return probs[a] > probs[b]; });
    Candidates found;
    found.count = count;
    for (int64_t n = 0; n < count; n++)
        found.tokens[n] = tokens[order[n]], found.log_probs[n] = std::log(probs[order[n]]);
    return found;
}

// Adds the noise of the candidates at `position` to `scores`.
void add_noise(const Chance& chance, const Candidates& found, int64_t position, float* scores) {
    static_assert(MOST <= WORDS);
    Words w;
    for (int64_t n = 0; n < found.count; n++)
        w.c0[n] = found.tokens[n] / 4, w.c1[n] = uint32_t(position), w.c2[n] = w.c3[n] = 0;
    philox(chance.seed, found.count, w);
    const uint32_t* lanes[] = {w.c0, w.c1, w.c2, w.c3};
    for (int64_t n = 0; n < found.count; n++)
        scores[n] += gumbel_of(lanes[found.tokens[n] % 4][n], chance.values, chance.slopes);
}

// How far number `index` is above every other, at most `limit`.
float lead(const float* scores, int64_t count, int64_t index, float limit) {
    float second = -INFINITY;
    for (int64_t n = 0; n < count; n++)
        if (n != index) second = std::max(second, scores[n]);
    return std::min(scores[index] - second, limit);
}

double log_total(const float* scores, int64_t count) {
    const float largest = *std::max_element(scores, scores + count);
    double total = 0;
    for (int64_t n = 0; n < count; n++) total += std::exp(scores[n] - largest);
    return largest + std::log(total);
}

}  // namespace

// Picks the token with the largest log-probability / temperature + noise for `position`, after
// `previous, last`. `guess` followed the last `match` tokens before, or is negative.
extern "C" void table_pick(const Table* table, int64_t previous, int64_t last, int64_t guess,
                           int64_t match, const Chance* chance, int64_t position, float limit,
                           TablePick* pick) {
    Candidates found = usual(*table, previous, last);
    if (guess >= 0 && table->repetitions) {
        const float weight = table->repetition[std::min(match, table->repetitions) - 1];
        if (weight) found = mixed(found, uint32_t(guess), weight);
    }
    const int64_t count = found.count;
    float weights[MOST], scores[MOST];
    for (int64_t n = 0; n < count; n++) {
        found.log_probs[n] *= table->sharpness;
        scores[n] = weights[n] = found.log_probs[n] / chance->temperature;
    }
    if (chance->values) add_noise(*chance, found, position, scores);
    const int64_t best = std::max_element(scores, scores + count) - scores;
    const double total = log_total(found.log_probs, count);
    double entropy = 0;
    for (int64_t n = 0; n < count; n++) {
        const double own = found.log_probs[n] - total;
        entropy -= std::exp(own) * own;
    }
    pick->token = found.tokens[best];
    pick->log_prob = weights[best] - log_total(weights, count);
    pick->entropy = entropy;
    pick->margin = lead(found.log_probs, count, 0, limit);
    pick->choice_margin = lead(scores, count, best, limit);
    pick->choice_margin_without_noise = lead(weights, count, best, limit);
}

// Picks up to `length` tokens for `position` and after it, behind `text` and `previous, last`, until the
// estimated chance that all of them are accepted falls under `least`. Returns how many; `end` is then
// the text's end and all picks but the last one.
extern "C" int64_t table_chances(const Table* table, const SuffixAutomaton* text, Suffix* end, int64_t previous,
                                 int64_t last, const Chance* chance, int64_t position, float limit,
                                 const SurvivalHead* head, int64_t length, double least, TablePick* picks,
                                 double* chances) {
    int64_t count = 0;
    for (double whole = 1; count < length && whole >= least; count++) {
        if (count) {
            previous = last, last = picks[count - 1].token;
            text->append(*end, int32_t(last));
        }
        TablePick& pick = picks[count];
        table_pick(table, previous, last, end->guess, end->match, chance, position + count, limit, &pick);
        chances[count] =
            head->chance(pick.token, last, pick.log_prob, pick.choice_margin, end->match, end->guess == pick.token);
        whole *= chances[count];
    }
    return count;
}
