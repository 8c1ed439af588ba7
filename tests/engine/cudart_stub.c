/* The part of the CUDA runtime that hqp_onnx and Polygraphy call, with host memory as device memory: copies, streams
   and events behave, so that what a GPU would receive can be read back. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { compute_major = 75, compute_minor = 76, invalid_value = 1 };

int cudaMalloc(void **pointer, size_t size) { return (*pointer = malloc(size ? size : 1)) ? 0 : 2; }
int cudaFree(void *pointer) { free(pointer); return 0; }
int cudaMemcpy(void *to, const void *from, size_t size, int kind) { (void)kind; memcpy(to, from, size); return 0; }
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) {
    (void)stream;
    return cudaMemcpy(to, from, size, kind);
}
int cudaStreamCreate(void **stream) { return cudaMalloc(stream, 1); }
int cudaStreamDestroy(void *stream) { return cudaFree(stream); }
int cudaStreamSynchronize(void *stream) { (void)stream; return 0; }
int cudaEventCreate(void **event) { return cudaMalloc(event, sizeof(struct timespec)); }
int cudaEventDestroy(void *event) { return cudaFree(event); }
int cudaEventRecord(void *event, void *stream) { (void)stream; return clock_gettime(CLOCK_MONOTONIC, event); }
int cudaEventSynchronize(void *event) { (void)event; return 0; }
int cudaEventElapsedTime(float *milliseconds, const struct timespec *start, const struct timespec *end) {
    *milliseconds = (end->tv_sec - start->tv_sec) * 1e3f + (end->tv_nsec - start->tv_nsec) / 1e6f;
    return 0;
}
int cudaDeviceGetAttribute(int *value, int attribute, int device) {
    if (device != 0 || (attribute != compute_major && attribute != compute_minor)) return invalid_value;
    const char *compute = getenv("STUB_COMPUTE") ? getenv("STUB_COMPUTE") : "87";
    *value = compute[attribute == compute_minor] - '0';
    return 0;
}
int cudaGetDeviceProperties(char *name, int device) { (void)device; strcpy(name, "Stub"); return 0; }
