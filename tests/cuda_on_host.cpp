// small.cu and stack.cu for threads of the host.
#include "cuda_on_host.h"

#define THREADS 64
#include SMALL_CU
#include STACK_CU

extern "C" int run(int blocks, int wide, int size, const void* A, void* X, void* tops, void* off, int n, int steps,
                   const double* c, const int* program, double eps) {
#define CASE(T, R)                                                                                               \
    if (wide == (sizeof(T) == 8) && size == R) {                                                                 \
        launch({blocks, 1}, {EDGE, EDGE}, [=] {                                                                  \
            coupled<T, R>((const T*)A, (T*)X, (T*)tops, (T*)off, n, steps, c, program, eps);                     \
        });                                                                                                      \
        return 0;                                                                                                \
    }
    CASE(float, 1) CASE(float, 2) CASE(float, 3) CASE(float, 4)
    CASE(double, 1) CASE(double, 2) CASE(double, 3) CASE(double, 4)
    return 1;
}

extern "C" void run_combine(int wide, int grid_x, int grid_y, void* C, const void* S, const void* M, double s, double m,
                            double d, int count, int n) {
    launch({grid_x, grid_y}, {THREADS, 1}, [=] {
        if (wide) combine<double>((double*)C, (const double*)S, (const double*)M, s, m, d, count, n);
        else combine<float>((float*)C, (const float*)S, (const float*)M, s, m, d, count, n);
    });
}

extern "C" void run_mirror(int wide, int grid_x, int grid_y, void* A, int count, int n) {
    launch({grid_x, grid_y}, {TILE, THREADS / TILE}, [=] {
        if (wide) mirror<double>((double*)A, count, n);
        else mirror<float>((float*)A, count, n);
    });
}

extern "C" void run_ritz(int wide, int blocks, const void* A, const double* start, double* ends, int n, int steps) {
    launch({blocks, 1}, {THREADS, 1}, [=] {
        if (wide) ritz<double>((const double*)A, start, ends, n, steps);
        else ritz<float>((const float*)A, start, ends, n, steps);
    });
}
