// The kernels under the thread sanitizer: a barrier that is missing is a data race. Every kind of step, every tile
// size; fewer rows than threads, more, and a number between.
#define REAL_THREADS
#include "cuda_on_host.cpp"

int main() {
    const double c[15] = {1.25, -0.25, 0, 0, 0, 1.3, -0.35, 0.05, 0, 0, 1.4, -0.6, 0.3, -0.12, 0.02};
    const int program[] = {1, 3, 1, 0, 0, 0, 0, 0, 0, 1, 1,  // degree 1: B to X; B^4 to M from both sides
                           2, 2, 1, 1, 1, 1, 0, 1,           // degree 2: B and B^2 to both
                           4, 2, 1, 0, 0, 1, 0, 0};          // degree 4, the last: M is left alone
    for (int size = 1; size <= 3; ++size) {
        const int n = 16 * size - 3, B = 2;
        std::vector<double> A(B * n * n), X(A.size()), tops(B), off(B);
        for (int b = 0; b < B; ++b)
            for (int i = 0; i < n; ++i)
                for (int j = 0; j < n; ++j) A[(b * n + i) * n + j] = (i == j ? 1 : 0) + 0.3 / (1 + i + j);
        for (int steps : {3, 1})  // with one step, degree 1 is the last as well
            if (run(B, 1, size, A.data(), X.data(), tops.data(), off.data(), n, steps, c, program, 2e-16)) return 1;
    }
    for (int n : {5, 50, 70, 150}) {
        std::vector<double> A(2 * n * n, 0.5), start(n, 1 / std::sqrt(n)), ends(4);
        for (int b = 0; b < 2; ++b)
            for (int i = 0; i < n; ++i) A[(b * n + i) * n + i] += i;
        run_ritz(1, 2, A.data(), start.data(), ends.data(), n, n < 5 ? n : 5);
        run_combine(1, 2, 1, A.data(), A.data(), A.data(), 1, 2, 3, 2, n);
        const int tiles = (n + 31) / 32;
        run_mirror(1, tiles * (tiles + 1) / 2, 1, A.data(), 2, n);
    }
    std::puts("done");
}
