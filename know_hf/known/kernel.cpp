// A KNOWN network for the processor at hand: one weight a lane, all hidden values in registers and first-level cache,
// all steps of the sliding window in one pass. Compiled by native.py, which lays out the constants below.
//
// Sizes are macros: STAGES, HIDDEN, BOTTLENECK, OUTPUT. PACK says how many hidden values a 32-bit lane of a matrix
// product holds: 1 float, or 2 bfloat16 whose products are added in float32.

#include <cstdint>
#include <cstring>
#if PACK == 2
#include <immintrin.h>
#endif

// A tile of a matrix product is ROWS values of WIDE vectors of weights: as many sums as registers allow beside a row of
// inputs and one constant, and enough to hide the latency of adding.
#if defined(__AVX512F__)
constexpr int LANES = 16, WIDE = 4, ROWS = 4;
#elif defined(__AVX__)
constexpr int LANES = 8, WIDE = 3, ROWS = 4;
#elif defined(__aarch64__)
constexpr int LANES = 4, WIDE = 4, ROWS = 4;
#else
constexpr int LANES = 4, WIDE = 3, ROWS = 4;
#endif

typedef float Lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t Bits __attribute__((vector_size(4 * LANES)));

constexpr int BLOCK = LANES * WIDE;
constexpr int GATES = (BOTTLENECK + PACK - 1) / PACK, INNER = (HIDDEN + PACK - 1) / PACK;

// Values of a layer of `count` whose constants lie together.
constexpr int rows_of(int count) { return count % ROWS == 0 ? ROWS : 1; }

static inline Lanes all(float value) { return value - Lanes{}; }  // exact, and compilers know it

static inline Bits bits(Lanes x) {
    Bits b;
    memcpy(&b, &x, sizeof b);
    return b;
}

static inline Lanes lanes(Bits b) {
    Lanes x;
    memcpy(&x, &b, sizeof x);
    return x;
}

// The larger, or the smaller, of the two; x where x is NaN. One instruction, as clang knows and GCC has to be told.
static inline Lanes at_least(Lanes bound, Lanes x) {
#if defined(__clang__) || !defined(__SSE__)
    return x < bound ? bound : x;
#elif defined(__AVX512F__)
    return __builtin_ia32_maxps512_mask(bound, x, x, -1, 4);
#elif defined(__AVX__)
    return __builtin_ia32_maxps256(bound, x);
#else
    return __builtin_ia32_maxps(bound, x);
#endif
}

static inline Lanes at_most(Lanes bound, Lanes x) {
#if defined(__clang__) || !defined(__SSE__)
    return x > bound ? bound : x;
#elif defined(__AVX512F__)
    return __builtin_ia32_minps512_mask(bound, x, x, -1, 4);
#elif defined(__AVX__)
    return __builtin_ia32_minps256(bound, x);
#else
    return __builtin_ia32_minps(bound, x);
#endif
}

// 2^x: the nearest integer goes to the exponent's bits, the rest through the polynomial of degree 5 that is 1 at 0 and
// has the least relative error: 2 units in the last place. Beyond ±126 it stays what it is there; NaN stays NaN.
static inline Lanes power_of_two(Lanes x) {
    x = at_most(all(126.0f), at_least(all(-126.0f), x));
    const Lanes shifted = x + 12582912.0f;  // 1.5 · 2^23: rounds to an integer in the low bits
    const Lanes rest = x - (shifted - 12582912.0f);
    Lanes series = rest * 1.3264727e-3f + 9.6715130e-3f;
    series = series * rest + 5.5507336e-2f;
    series = series * rest + 0.24022242f;
    series = series * rest + 0.69314700f;
    series = series * rest + 1.0f;
    return lanes(bits(series) + (bits(shifted) << 23));
}

// sum + constant · values, of PACK values a lane.
static inline Lanes add_product(Lanes sum, float constant, Lanes values) {
#if PACK == 2
    return (Lanes)_mm512_dpbf16_ps((__m512)sum, (__m512bh)all(constant), (__m512bh)values);
#else
    return sum + constant * values;
#endif
}

// Two rows of floats as pairs of bfloat16, rounded to nearest.
static inline Lanes pair(Lanes low, Lanes high) {
    const Bits lower = ((bits(low) + 0x8000) >> 16) & 0xffff, upper = (bits(high) + 0x8000) & ~0xffff;
    return lanes(lower | upper);
}

// Keeps a row, with the one before it where a lane holds two.
static inline void store(Lanes (*rows)[WIDE], int row, int wide, Lanes value, Lanes& waiting) {
#if PACK == 2
    if (row % 2 == 0) {
        waiting = value;
        rows[row / 2][wide] = pair(value, Lanes{});
    } else {
        rows[row / 2][wide] = pair(waiting, value);
    }
#else
    rows[row][wide] = value;
#endif
}

// What follows works on tiles of HEIGHT values: sums that stay in registers, constants one column after the other. Loops
// over inputs stay loops: unrolled whole, compilers move loads up until the sums no longer fit.

template <int HEIGHT>
static inline const float* biases(const float* at, Lanes (*sums)[WIDE]) {
    for (int k = 0; k < HEIGHT; k++)
        for (int w = 0; w < WIDE; w++) sums[k][w] = all(at[k]);
    return at + HEIGHT;
}

// Adds the products of float inputs.
template <int HEIGHT, int COUNT>
static inline const float* add_plain(const float* at, const Lanes (*inputs)[WIDE], Lanes (*sums)[WIDE]) {
#pragma GCC unroll 2
    for (int i = 0; i < COUNT; i++, at += HEIGHT)
        for (int k = 0; k < HEIGHT; k++)
            for (int w = 0; w < WIDE; w++) sums[k][w] += at[k] * inputs[i][w];
    return at;
}

// Adds the products of inputs of PACK values a lane.
template <int HEIGHT, int COUNT>
static inline const float* add_packed(const float* at, const Lanes (*inputs)[WIDE], Lanes (*sums)[WIDE]) {
#pragma GCC unroll 2
    for (int i = 0; i < COUNT; i++, at += HEIGHT)
        for (int k = 0; k < HEIGHT; k++)
            for (int w = 0; w < WIDE; w++) sums[k][w] = add_product(sums[k][w], at[k], inputs[i][w]);
    return at;
}

// Adds one stream's share of the head to `total`; returns the constants after its own.
template <int INPUTS>
static inline const float* stream(const float* at, const Lanes (*inputs)[WIDE], Lanes* total) {
    Lanes gate[GATES][WIDE], hidden[INNER][WIDE], waiting[WIDE] = {};
    constexpr int OF_GATE = rows_of(BOTTLENECK), OF_HIDDEN = rows_of(HIDDEN), OF_OUTPUT = rows_of(OUTPUT);
    for (int row = 0; row < BOTTLENECK; row += OF_GATE) {
        Lanes sums[OF_GATE][WIDE];
        at = biases<OF_GATE>(at, sums);
        at = add_plain<OF_GATE, INPUTS>(at, inputs, sums);
        for (int k = 0; k < OF_GATE; k++)
            for (int w = 0; w < WIDE; w++)
                store(gate, row + k, w, at_least(Lanes{}, sums[k][w]), waiting[w]);
    }
    for (int row = 0; row < HIDDEN; row += OF_HIDDEN) {
        Lanes exponential[OF_HIDDEN][WIDE];
        {
            Lanes value[OF_HIDDEN][WIDE], rate[OF_HIDDEN][WIDE];
            at = biases<OF_HIDDEN>(at, value);
            at = add_plain<OF_HIDDEN, INPUTS>(at, inputs, value);
            at = biases<OF_HIDDEN>(at, rate);
            at = add_packed<OF_HIDDEN, GATES>(at, gate, rate);
            for (int k = 0; k < OF_HIDDEN; k++)
                for (int w = 0; w < WIDE; w++) exponential[k][w] = power_of_two(rate[k][w] * value[k][w]);
        }
        Lanes gain[OF_HIDDEN][WIDE];
        at = biases<OF_HIDDEN>(at, gain);
        at = add_packed<OF_HIDDEN, GATES>(at, gate, gain);
        for (int k = 0; k < OF_HIDDEN; k++)
            for (int w = 0; w < WIDE; w++) store(hidden, row + k, w, gain[k][w] * exponential[k][w], waiting[w]);
    }
    for (int row = 0; row < OUTPUT; row += OF_OUTPUT) {
        Lanes sums[OF_OUTPUT][WIDE];
        at = biases<OF_OUTPUT>(at, sums);
        at = add_packed<OF_OUTPUT, GATES>(at, gate, sums);
        at = add_packed<OF_OUTPUT, INNER>(at, hidden, sums);
        // The leaky output times the head's weight, as a part of every value and a part of positive ones.
        for (int k = 0; k < OF_OUTPUT; k++)
            for (int w = 0; w < WIDE; w++) {
                const Lanes sum = sums[k][w];
                total[w] += at[k] * sum;
                total[w] += at[OF_OUTPUT + k] * at_least(Lanes{}, sum);
            }
        at += 2 * OF_OUTPUT;
    }
    return at;
}

// Not inlined: every call rounds alike.
__attribute__((noinline)) static void block(const float* constants, const float* history, int64_t stride, float* out,
                                            int64_t out_stride, int steps) {
    Lanes window[STAGES][WIDE], moves[STAGES - 1][WIDE];
    for (int s = 0; s < STAGES; s++) memcpy(window[s], history + s * stride, sizeof window[s]);
    for (int step = 0; step < steps; step++) {
        Lanes total[WIDE];
        for (int s = 0; s < STAGES - 1; s++)
            for (int w = 0; w < WIDE; w++) moves[s][w] = window[s + 1][w] - window[s][w];
        for (int w = 0; w < WIDE; w++) total[w] = all(constants[0]);
        const float* differences = stream<STAGES>(constants + 1, window, total);
        stream<STAGES - 1>(differences, moves, total);
        for (int s = 0; s < STAGES - 1; s++)
            for (int w = 0; w < WIDE; w++) window[s][w] = window[s + 1][w];
        for (int w = 0; w < WIDE; w++) {
            const Lanes size = total[w] < Lanes{} ? -total[w] : total[w], decay = power_of_two(-2.88539008f * size);
            const Lanes residual = (1.0f - decay) / (1.0f + decay);
            window[STAGES - 1][w] += total[w] < Lanes{} ? -residual : residual;
        }
        memcpy(out + step * out_stride, window[STAGES - 1], sizeof window[0]);
    }
}

// Values of a layer of `count` whose constants lie together.
extern "C" int rows(int count) { return rows_of(count); }

// History is (STAGES, n) and `out` (steps, n), rows `stride` and `out_stride` values apart.
extern "C" void predict(const float* constants, const float* history, int64_t n, int64_t stride, float* out,
                        int64_t out_stride, int steps) {
    int64_t at = 0;
    for (; at + BLOCK <= n; at += BLOCK) block(constants, history + at, stride, out + at, out_stride, steps);
    const size_t rest = (n - at) * sizeof(float);
    if (!rest) return;
    float window[STAGES + 1][BLOCK] = {};
    for (int s = 0; s < STAGES; s++) memcpy(window[s], history + s * stride + at, rest);
    for (int step = 0; step < steps; step++) {
        block(constants, window[0], BLOCK, window[STAGES], BLOCK, 1);
        memcpy(out + step * out_stride + at, window[STAGES], rest);
        memmove(window[0], window[1], STAGES * sizeof window[0]);
    }
}
