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

#if defined(__AVX512F__)
constexpr int LANES = 16, REGISTERS = 32;
#elif defined(__AVX__)
constexpr int LANES = 8, REGISTERS = 16;
#else
constexpr int LANES = 4, REGISTERS = 32;
#endif

typedef float Lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t Bits __attribute__((vector_size(4 * LANES)));

// Two vectors of weights at a time: enough independent sums to hide the latency of one.
constexpr int WIDE = 2, BLOCK = LANES * WIDE;
// Output values at a time, so that their sums stay in registers.
constexpr int GROUP = OUTPUT % 8 == 0 && REGISTERS == 32 ? 8 : OUTPUT % 4 == 0 ? 4 : 1;
constexpr int GATES = (BOTTLENECK + PACK - 1) / PACK, INNER = (HIDDEN + PACK - 1) / PACK;

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

// Range reduction by powers of two and a polynomial of degree 6 (coefficients of the Cephes library): 2 units in the
// last place. Infinite above 88.4, zero below -87.5; NaN stays NaN.
static inline Lanes exponential(Lanes x) {
    x = x < all(-87.5f) ? all(-87.5f) : x;
    x = x > all(89.0f) ? all(89.0f) : x;
    const Lanes shifted = x * 1.44269504f + 12582912.0f;  // 1.5 · 2^23: rounds to an integer in the low bits
    const Lanes power = shifted - 12582912.0f;
    const Lanes scale = lanes((bits(shifted) + 127) << 23);
    const Lanes rest = (x - power * 0.693359375f) + power * 2.12194440e-4f;
    Lanes series = rest * 1.9875691500e-4f + 1.3981999507e-3f;
    series = series * rest + 8.3334519073e-3f;
    series = series * rest + 4.1665795894e-2f;
    series = series * rest + 1.6666665459e-1f;
    series = series * rest + 5.0000001201e-1f;
    return (series * rest * rest + rest + 1.0f) * scale;
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

// Adds one stream's share of the head to `total`; returns the constants after its own.
template <int INPUTS>
static inline const float* stream(const float* at, const Lanes (*inputs)[WIDE], float slope, Lanes* total) {
    Lanes gate[GATES][WIDE], hidden[INNER][WIDE], waiting[WIDE] = {};
    for (int row = 0; row < BOTTLENECK; row++, at += 1 + INPUTS)
        for (int w = 0; w < WIDE; w++) {
            Lanes sum = all(at[0]);
            for (int i = 0; i < INPUTS; i++) sum += at[1 + i] * inputs[i][w];
            store(gate, row, w, sum < Lanes{} ? Lanes{} : sum, waiting[w]);
        }
    for (int row = 0; row < HIDDEN; row++, at += 3 + INPUTS + 2 * GATES)
        for (int w = 0; w < WIDE; w++) {
            Lanes value = all(at[0]), rate = all(at[1]), gain = all(at[2]);
            const float* constant = at + 3;
            for (int i = 0; i < INPUTS; i++) value += *constant++ * inputs[i][w];
            for (int i = 0; i < GATES; i++) rate = add_product(rate, *constant++, gate[i][w]);
            for (int i = 0; i < GATES; i++) gain = add_product(gain, *constant++, gate[i][w]);
            store(hidden, row, w, gain * exponential(rate * value), waiting[w]);
        }
    for (int first = 0; first < OUTPUT; first += GROUP) {
        Lanes sums[GROUP][WIDE];
        for (int k = 0; k < GROUP; k++)
            for (int w = 0; w < WIDE; w++) sums[k][w] = all(at[k]);
        at += GROUP;
        for (int i = 0; i < GATES; i++, at += GROUP)
            for (int k = 0; k < GROUP; k++)
                for (int w = 0; w < WIDE; w++) sums[k][w] = add_product(sums[k][w], at[k], gate[i][w]);
        for (int i = 0; i < INNER; i++, at += GROUP)
            for (int k = 0; k < GROUP; k++)
                for (int w = 0; w < WIDE; w++) sums[k][w] = add_product(sums[k][w], at[k], hidden[i][w]);
        for (int k = 0; k < GROUP; k++)
            for (int w = 0; w < WIDE; w++) {
                const Lanes sum = sums[k][w];
                total[w] += at[k] * (sum < Lanes{} ? sum * slope : sum);
            }
        at += GROUP;
    }
    return at;
}

// Not inlined: every call rounds alike.
__attribute__((noinline)) static void block(const float* constants, const float* history, int64_t stride, float* out, int64_t out_stride,
                  int steps, float slope) {
    Lanes window[STAGES][WIDE], moves[STAGES - 1][WIDE];
    for (int s = 0; s < STAGES; s++) memcpy(window[s], history + s * stride, sizeof window[s]);
    for (int step = 0; step < steps; step++) {
        Lanes total[WIDE];
        for (int s = 0; s < STAGES - 1; s++)
            for (int w = 0; w < WIDE; w++) moves[s][w] = window[s + 1][w] - window[s][w];
        for (int w = 0; w < WIDE; w++) total[w] = all(constants[0]);
        const float* differences = stream<STAGES>(constants + 1, window, slope, total);
        stream<STAGES - 1>(differences, moves, slope, total);
        for (int s = 0; s < STAGES - 1; s++)
            for (int w = 0; w < WIDE; w++) window[s][w] = window[s + 1][w];
        for (int w = 0; w < WIDE; w++) {
            const Lanes size = total[w] < Lanes{} ? -total[w] : total[w], decay = exponential(-2.0f * size);
            const Lanes residual = (1.0f - decay) / (1.0f + decay);
            window[STAGES - 1][w] += total[w] < Lanes{} ? -residual : residual;
        }
        memcpy(out + step * out_stride, window[STAGES - 1], sizeof window[0]);
    }
}

// Output values whose constants lie together.
extern "C" int group() { return GROUP; }

// History is (STAGES, n) and `out` (steps, n), rows `stride` and `out_stride` values apart.
extern "C" void predict(const float* constants, const float* history, int64_t n, int64_t stride, float* out,
                        int64_t out_stride, int steps, float slope) {
    int64_t at = 0;
    for (; at + BLOCK <= n; at += BLOCK) block(constants, history + at, stride, out + at, out_stride, steps, slope);
    const size_t rest = (n - at) * sizeof(float);
    if (!rest) return;
    float window[STAGES + 1][BLOCK] = {};
    for (int s = 0; s < STAGES; s++) memcpy(window[s], history + s * stride + at, rest);
    for (int step = 0; step < steps; step++) {
        block(constants, window[0], BLOCK, window[STAGES], BLOCK, 1, slope);
        memcpy(out + step * out_stride + at, window[STAGES], rest);
        memmove(window[0], window[1], STAGES * sizeof window[0]);
    }
}
