// What the GPU path does to whole stacks between products, each in one launch: sums of matrices, mirror images, and
// the ends of the spectrum. Real matrices, stored by rows, one behind the other.

// C = s S + m M + d I for `count` matrices n x n; C may be S or M.
// Blocks (x, y): x walks through a matrix, y through the stack.
template <typename T>
__global__ void combine(T* C, const T* S, const T* M, double s, double m, double d, int count, int n) {
    const unsigned size = static_cast<unsigned>(n) * n, stride = gridDim.x * blockDim.x, next = n + 1;
    const T a = static_cast<T>(s), b = static_cast<T>(m), diagonal = static_cast<T>(d);
    for (int k = blockIdx.y; k < count; k += gridDim.y) {
        const size_t first = static_cast<size_t>(k) * size;
        for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < size; i += stride)
            C[first + i] = a * S[first + i] + b * M[first + i] + (i % next == 0 ? diagonal : T(0));
    }
}

constexpr int TILE = 32;  // edge of the tiles of `mirror`

// The upper triangles of `count` matrices n x n become the mirror images of the lower ones. Blocks (x, y): x is one of
// the tiles on and below the diagonal, row by row, y walks through the stack. Dynamic shared memory: a padded tile.
template <typename T>
__global__ void mirror(T* A, int count, int n) {
    extern __shared__ double memory[];
    T* const tile = reinterpret_cast<T*>(memory);
    int i = 0, j = blockIdx.x;
    while (j > i) j -= ++i;
    const int x = threadIdx.x;
    for (int k = blockIdx.y; k < count; k += gridDim.y) {
        T* const one = A + static_cast<size_t>(k) * n * n;
        for (int y = threadIdx.y; y < TILE; y += blockDim.y) {
            const int row = i * TILE + y, column = j * TILE + x;
            if (row < n && column < n) tile[y * (TILE + 1) + x] = one[static_cast<size_t>(row) * n + column];
        }
        __syncthreads();
        for (int y = threadIdx.y; y < TILE; y += blockDim.y) {
            const int row = j * TILE + y, column = i * TILE + x;
            if (row < column && column < n) one[static_cast<size_t>(row) * n + column] = tile[x * (TILE + 1) + y];
        }
        __syncthreads();
    }
}

#ifndef THREADS
#define THREADS 512  // of a block of `ritz`
#endif
constexpr int MOST = 16;   // its Lanczos steps
constexpr int BASIS = 256;  // the largest n whose Lanczos vectors are all kept
constexpr int LANES = 32;

// The sum of one number of every thread; every thread gets it. `part` is scratch for THREADS + LANES numbers.
__device__ double total(double mine, double* part) {
    double* const sums = part + THREADS;
    const int t = threadIdx.x;
    __syncthreads();
    part[t] = mine;
    __syncthreads();
    if (t < LANES) {
        double sum = 0;
        for (int i = t; i < THREADS; i += LANES) sum += part[i];
        sums[t] = sum;
    }
    __syncthreads();
    double sum = 0;
    for (int i = 0; i < LANES; ++i) sum += sums[i];
    return sum;
}

// How many eigenvalues of the k x k tridiagonal matrix (alpha, beta) lie below x: Sturm's count, with the pivots
// held away from zero.
__device__ int below(const double* alpha, const double* beta, int k, double x, double least) {
    int count = 0;
    double pivot = 1;
    for (int j = 0; j < k; ++j) {
        pivot = alpha[j] - x - (j > 0 ? beta[j - 1] * beta[j - 1] / pivot : 0);
        if (pivot < least && pivot > -least) pivot = -least;
        count += pivot < 0;
    }
    return count;
}

// w -= V V^T w for the first k vectors of V, which are orthonormal. Every 32 threads take a vector at a time. `part` is
// scratch for MOST * LANES + MOST numbers; w[i] belongs to thread i % THREADS.
__device__ void orthogonalize(double* w, const double* V, int k, double* part, int n) {
    double* const h = part + MOST * LANES;
    const int t = threadIdx.x, lane = t % LANES;
    __syncthreads();
    for (int j = t / LANES; j < k; j += THREADS / LANES) {
        double dot = 0;
        for (int i = lane; i < n; i += LANES) dot += V[j * n + i] * w[i];
        part[j * LANES + lane] = dot;
    }
    __syncthreads();
    if (t < k) {
        double dot = 0;
        for (int i = 0; i < LANES; ++i) dot += part[t * LANES + i];
        h[t] = dot;
    }
    __syncthreads();
    for (int i = t; i < n; i += THREADS)
        for (int j = 0; j < k; ++j) w[i] -= h[j] * V[j * n + i];
}

// The largest (column 0) and smallest (column 1) Ritz value of gridDim.x symmetric matrices, after `steps` <= 16
// Lanczos steps from `start`, in double precision; NaN where a matrix is not finite. Reorthogonalized up to n = BASIS:
// beyond that, what it would mend are copies of Ritz values that have converged. Dynamic shared memory, in doubles:
// 3 n + 2 MOST + max(THREADS + LANES, MOST LANES + MOST), and MOST n for the basis.
// A thread owns a column (A is symmetric, so columns are rows) or, where n < THREADS, a part of one.
template <typename T>
__global__ void __launch_bounds__(THREADS, 1) ritz(const T* __restrict__ A, const double* __restrict__ start,
                                                double* __restrict__ ends, int n, int steps) {
    extern __shared__ double memory[];
    double *const v = memory, *const before = v + n, *const w = before + n;
    double *const alpha = w + n, *const beta = alpha + MOST, *const part = beta + MOST;
    double* const V = part + (THREADS + LANES > MOST * (LANES + 1) ? THREADS + LANES : MOST * (LANES + 1));
    const bool keeps = n <= BASIS;
    const int t = threadIdx.x;
    A += static_cast<size_t>(blockIdx.x) * n * n;

    for (int i = t; i < n; i += THREADS) {
        v[i] = start[i];
        before[i] = 0;
    }
    const int width = n < THREADS ? n : THREADS, groups = THREADS / width, group = t / width;
    int k = 0;
    double last = 0, size = 0;
    for (; k < steps; ++k) {
        __syncthreads();
        for (int c = t % width; group < groups && c < n; c += width) {
            double sum = 0;
#pragma unroll 8
            for (int r = group; r < n; r += groups) sum += static_cast<double>(A[static_cast<size_t>(r) * n + c]) * v[r];
            if (groups == 1) w[c] = sum;
            else part[t] = sum;
        }
        __syncthreads();
        if (groups > 1 && t < n) {
            double sum = 0;
            for (int g = 0; g < groups; ++g) sum += part[g * width + t];
            w[t] = sum;
        }
        double dot = 0;
        for (int i = t; i < n; i += THREADS) {  // v[i] and w[i] are this thread's own
            dot += v[i] * w[i];
            if (keeps) V[k * n + i] = v[i];
        }
        const double a = total(dot, part);
        for (int i = t; i < n; i += THREADS) w[i] -= a * v[i] + last * before[i];
        if (keeps) orthogonalize(w, V, k + 1, part, n);
        double square = 0;
        for (int i = t; i < n; i += THREADS) square += w[i] * w[i];
        const double b = sqrt(total(square, part));
        if (t == 0) {
            alpha[k] = a;
            beta[k] = b;
        }
        const double reach = (a < 0 ? -a : a) + b;
        size = reach > size ? reach : size;
        if (!(b > 1e-14 * size)) {  // v spans all that the start can reach; NaN ends here too
            ++k;
            break;
        }
        for (int i = t; i < n; i += THREADS) {
            before[i] = v[i];
            v[i] = w[i] / b;
        }
        last = b;
    }
    __syncthreads();
    if (t > 1) return;
    // Bisection in Gershgorin's interval: thread 0 for the largest, thread 1 for the smallest.
    double bound = 0;
    bool finite = true;
    for (int j = 0; j < k; ++j) {
        const double reach = (alpha[j] < 0 ? -alpha[j] : alpha[j]) + (j > 0 ? beta[j - 1] : 0) + (j + 1 < k ? beta[j] : 0);
        finite = finite && reach < 1.7e308;
        bound = reach > bound ? reach : bound;
    }
    const double least = 1e-30 * bound;
    const int wanted = t == 0 ? k : 1;
    double low = -bound, high = bound;
    for (int i = 0; i < 64; ++i) {
        const double middle = low + (high - low) / 2;
        if (below(alpha, beta, k, middle, least) < wanted) low = middle;
        else high = middle;
    }
    const double zero = 0;
    ends[2 * blockIdx.x + t] = finite ? low + (high - low) / 2 : zero / zero;
}
