// The coupled iteration of matroot/methods/minimax.py for small matrices: one block solves one matrix, from load to
// store, in shared memory.
//
//     B = q_k(M);  X <- X B^a;  M <- B^p M,  from M = A / top, X = I,
//
// with the polynomials and the order of the factors handed over by the host. A thread owns R x R elements, EDGE apart,
// of every matrix. A product gathers its elements in registers before it writes them, so it may overwrite a factor:
// four matrices are enough. They are padded with zeros to m = EDGE R, which products leave zero.

#ifndef EDGE
#define EDGE 16
#endif

template <typename T, int R>
struct Tile {
    static constexpr int m = EDGE * R;  // padded size
    static constexpr int ld = m + 1;    // the odd stride keeps the rows of a warp in different banks
    static constexpr int size = m * ld;
};

// f(row, column) for every element that this thread owns.
template <int R, typename F>
__device__ __forceinline__ void own(F f) {
#pragma unroll
    for (int i = 0; i < R; ++i)
#pragma unroll
        for (int j = 0; j < R; ++j) f(threadIdx.y + EDGE * i, threadIdx.x + EDGE * j);
}

// C = A B; C may be A or B. Begins with a barrier: what was written before is read here.
template <typename T, int R>
__device__ __forceinline__ void multiply(T* C, const T* A, const T* B, int n) {
    constexpr int ld = Tile<T, R>::ld;
    T sum[R][R], a[R], b[R];
#pragma unroll
    for (int i = 0; i < R; ++i)
#pragma unroll
        for (int j = 0; j < R; ++j) sum[i][j] = 0;
    __syncthreads();
    for (int k = 0; k < n; ++k) {
#pragma unroll
        for (int i = 0; i < R; ++i) a[i] = A[(threadIdx.y + EDGE * i) * ld + k];
#pragma unroll
        for (int j = 0; j < R; ++j) b[j] = B[k * ld + threadIdx.x + EDGE * j];
#pragma unroll
        for (int i = 0; i < R; ++i)
#pragma unroll
            for (int j = 0; j < R; ++j) sum[i][j] += a[i] * b[j];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < R; ++i)
#pragma unroll
        for (int j = 0; j < R; ++j) C[(threadIdx.y + EDGE * i) * ld + threadIdx.x + EDGE * j] = sum[i][j];
}

// A bound of lambda_max from above: the infinity norm of M, or the largest eigenvalue that S = M^2 can have with its
// trace and norm (Wolkowicz & Styan 1980, eq. 2.4). Every thread gets it. `rows` is scratch for 3 m numbers.
template <typename T, int R>
__device__ T bound(const T* M, const T* S, T* rows, int n, T eps) {
    constexpr int m = Tile<T, R>::m, ld = Tile<T, R>::ld;
    __syncthreads();
    for (int r = threadIdx.y * EDGE + threadIdx.x; r < n; r += EDGE * EDGE) {
        T norm = 0, second = 0, fourth = 0;
        for (int k = 0; k < n; ++k) {
            const T x = M[r * ld + k], y = S[r * ld + k];
            norm += x < 0 ? -x : x;
            second += x * x;
            fourth += y * y;
        }
        rows[r] = norm;
        rows[m + r] = second;
        rows[2 * m + r] = fourth;
    }
    __syncthreads();
    T norm = 0, second = 0, fourth = 0;
    for (int r = 0; r < n; ++r) {
        norm = rows[r] > norm ? rows[r] : norm;
        second += rows[m + r];
        fourth += rows[2 * m + r];
    }
    const T each = T(1) / n;
    second *= each;
    fourth *= each;
    __syncthreads();
    const T spread = fourth - second * second;
    const T variance = (spread > 0 ? spread : 0) + 4 * eps * fourth;
    const T moments = sqrt(second + sqrt((n - 1) * variance));
    return norm < moments ? norm : moments;
}

// ||M - I||_F. Every thread gets it. `rows` is scratch for m numbers.
template <typename T, int R>
__device__ T deviation(const T* M, T* rows, int n) {
    constexpr int ld = Tile<T, R>::ld;
    __syncthreads();
    for (int r = threadIdx.y * EDGE + threadIdx.x; r < n; r += EDGE * EDGE) {
        T square = 0;
        for (int k = 0; k < n; ++k) {
            const T d = M[r * ld + k] - (r == k ? 1 : 0);
            square += d * d;
        }
        rows[r] = square;
    }
    __syncthreads();
    T square = 0;
    for (int r = 0; r < n; ++r) square += rows[r];
    __syncthreads();
    return sqrt(square);
}

// A, X     gridDim.x matrices n x n, n <= EDGE R; X may not be A
// tops     per matrix the number that A was divided by: X is (A / top)^(-a/p)
// off      per matrix ||M - I||_F before the last step
// c        coefficients c_0 .. c_4 of each of `steps` polynomials
// program  per step: degree, number of factors, and for each factor B^(2^j): goes to X (0 or 1), how often to M from
//          the left, from the right
// eps      of T
template <typename T, int R>
__global__ void __launch_bounds__(EDGE* EDGE, 1) coupled(const T* __restrict__ A, T* __restrict__ X_out,
                                                      T* __restrict__ tops, T* __restrict__ off, int n, int steps,
                                                      const double* __restrict__ c, const int* __restrict__ program,
                                                      double eps) {
    constexpr int ld = Tile<T, R>::ld, size = Tile<T, R>::size;
    extern __shared__ double memory[];
    T* const M = reinterpret_cast<T*>(memory);
    T* const S = M + size;
    T* const P = S + size;
    T* const X = P + size;
    const size_t first = static_cast<size_t>(blockIdx.x) * n * n;

    own<R>([&](int i, int j) { M[i * ld + j] = i < n && j < n ? A[first + static_cast<size_t>(i) * n + j] : T(0); });
    multiply<T, R>(S, M, M, n);
    const T top = bound<T, R>(M, S, P, n, static_cast<T>(eps)), unit = T(1) / top;
    if (threadIdx.x == 0 && threadIdx.y == 0) tops[blockIdx.x] = top;
    own<R>([&](int i, int j) {
        M[i * ld + j] *= unit;
        S[i * ld + j] *= unit * unit;
    });
    bool empty = true;
    for (int step = 0; step < steps; ++step, c += 5) {
        const int degree = *program++, factors = *program++;
        if (step == steps - 1) {
            const T d = deviation<T, R>(M, P, n);
            if (threadIdx.x == 0 && threadIdx.y == 0) off[blockIdx.x] = d;
        }
        if (step > 0 && degree > 1) multiply<T, R>(S, M, M, n);
        const T c0 = c[0], c1 = c[1], c2 = c[2], c3 = c[3], c4 = c[4];
        if (degree == 4) {
            own<R>([&](int i, int j) {
                P[i * ld + j] = c4 * S[i * ld + j] + c3 * M[i * ld + j] + (i == j && i < n ? c2 : T(0));
            });
            multiply<T, R>(P, S, P, n);
            own<R>([&](int i, int j) { P[i * ld + j] += c1 * M[i * ld + j] + (i == j && i < n ? c0 : T(0)); });
        } else {
            own<R>([&](int i, int j) {
                const T square = degree == 2 ? c2 * S[i * ld + j] : T(0);
                P[i * ld + j] = square + c1 * M[i * ld + j] + (i == j && i < n ? c0 : T(0));
            });
        }
        for (int j = 0; j < factors; ++j, program += 3) {
            if (j > 0) multiply<T, R>(P, P, P, n);
            if (program[0] && empty) {
                own<R>([&](int i, int k) { X[i * ld + k] = P[i * ld + k]; });
                empty = false;
            } else if (program[0]) {
                multiply<T, R>(X, X, P, n);
            }
            for (int left = 0; left < program[1]; ++left) multiply<T, R>(M, P, M, n);
            for (int right = 0; right < program[2]; ++right) multiply<T, R>(M, M, P, n);
        }
    }
    own<R>([&](int i, int j) {
        if (i < n && j < n) X_out[first + static_cast<size_t>(i) * n + j] = X[i * ld + j];
    });
}
