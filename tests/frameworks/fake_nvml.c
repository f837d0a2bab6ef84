/* A fake libnvidia-ml for tests, not NVIDIA's: GPU 0 counts 300 W, GPU 1 has no counter and uses 150 W. */
#include <stdio.h>
#include <time.h>

static struct timespec began;

int nvmlInit_v2(void) { clock_gettime(CLOCK_MONOTONIC, &began); return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) { *handle = (void *)(long)(index + 1); return 0; }
int nvmlDeviceGetName(void *handle, char *name, unsigned length) {
    snprintf(name, length, "Fake GPU %ld", (long)handle - 1);
    return 0;
}
int nvmlDeviceGetTotalEnergyConsumption(void *handle, unsigned long long *millijoules) {
    struct timespec now;
    if (handle != (void *)1) return 3; /* NVML_ERROR_NOT_SUPPORTED */
    clock_gettime(CLOCK_MONOTONIC, &now);
    *millijoules = 5000000ULL + 300ULL * ((now.tv_sec - began.tv_sec) * 1000 + (now.tv_nsec - began.tv_nsec) / 1000000);
    return 0;
}
int nvmlDeviceGetPowerUsage(void *handle, unsigned *milliwatts) { (void)handle; *milliwatts = 150000; return 0; }
const char *nvmlErrorString(int status) { (void)status; return "Not Supported"; }
