/* Answers as libnvidia-ml.so.1 does, for as many of its functions as we call.
 *
 * What it says stands in the file that NVML_DOUBLE names, which is read anew at every
 * call, so that a GPU can fall off the bus between two of them. One fact a line:
 *
 *   gpu <index> <total MiB> <used MiB> <name>
 *   instance <gpu> <number> <total MiB> <used MiB>       (and the GPU is in MIG mode)
 *   mig <gpu>                                            MIG mode, though without an instance
 *   process <gpu> <instance, or -1> <pid> <used MiB, or -1: not available>
 *   drawing <gpu> <instance, or -1> <pid> <used MiB, or -1>
 *   fail <function without "nvmlDevice", "nvmlSystem", "nvml"> <gpu, or -1: any> <error code>
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define API __attribute__((visibility("default")))
#define MIB (1024ull * 1024ull)

typedef int nvmlReturn_t;
typedef struct { int gpu, instance; } device_t;
typedef struct { unsigned long long total, free, used; } nvmlMemory_t;
typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } process_v3_t;

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7 };

static int initialised;
static device_t devices[16][9]; /* [gpu][0] is the GPU itself, [gpu][1 + n] its instance n */

static FILE *facts(void) {
    const char *path = getenv("NVML_DOUBLE");
    return path ? fopen(path, "r") : NULL;
}

/* Return what `function` fails with on `gpu`, 0 when it does not. */
static nvmlReturn_t fault(const char *function, int gpu) {
    FILE *file = facts();
    char line[256], name[64];
    int on, code, found = SUCCESS;
    if (!file) return 9; /* DRIVER_NOT_LOADED */
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "fail %63s %d %d", name, &on, &code) == 3 && !strcmp(name, function) && (on == gpu || on < 0))
            found = code;
    fclose(file);
    return found;
}

#define CHECK(function, gpu)                                   \
    do {                                                       \
        nvmlReturn_t code = fault(function, gpu);              \
        if (code) return code;                                 \
        if (!initialised) return UNINITIALIZED;                \
    } while (0)

/* Find the line about `device`; its name goes to `name`, unless that is NULL. */
static int memory_of(const device_t *device, long *total, long *used, char *name) {
    FILE *file = facts();
    char line[256], called[96];
    int gpu, instance, found = 0;
    if (!file) return 0;
    while (fgets(line, sizeof line, file)) {
        if (device->instance < 0 && sscanf(line, "gpu %d %ld %ld %95[^\n]", &gpu, total, used, called) == 4) {
            if (gpu == device->gpu) { found = 1; break; }
        } else if (device->instance >= 0 && sscanf(line, "instance %d %d %ld %ld", &gpu, &instance, total, used) == 4) {
            if (gpu == device->gpu && instance == device->instance) {
                snprintf(called, sizeof called, "NVIDIA A100 MIG 1g.5gb");
                found = 1;
                break;
            }
        }
    }
    fclose(file);
    if (found && name) strcpy(name, called);
    return found;
}

API const char *nvmlErrorString(nvmlReturn_t code) {
    switch (code) {
    case 1: return "Uninitialized";
    case 3: return "Not Supported";
    case 4: return "Insufficient Permissions";
    case 6: return "Not Found";
    case 9: return "Driver Not Loaded";
    case 15: return "GPU is lost";
    case 18: return "Driver/library version mismatch";
    default: return "Unknown Error";
    }
}

API nvmlReturn_t nvmlInitWithFlags(unsigned flags) {
    nvmlReturn_t code = fault("Init", -1);
    (void)flags;
    if (!code) initialised++;
    return code;
}

API nvmlReturn_t nvmlShutdown(void) {
    if (!initialised) return UNINITIALIZED;
    initialised--;
    return fault("Shutdown", -1);
}

API nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned length) {
    CHECK("GetDriverVersion", -1);
    snprintf(version, length, "580.65.06");
    return SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *count) {
    FILE *file;
    char line[256];
    CHECK("GetCount", -1);
    *count = 0;
    file = facts();
    while (file && fgets(line, sizeof line, file)) *count += !strncmp(line, "gpu ", 4);
    if (file) fclose(file);
    return SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned index, device_t **handle) {
    CHECK("GetHandleByIndex", (int)index);
    devices[index][0] = (device_t){(int)index, -1};
    *handle = &devices[index][0];
    return SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetName(device_t *device, char *name, unsigned length) {
    char called[96];
    long total, used;
    CHECK("GetName", device->gpu);
    if (!memory_of(device, &total, &used, called)) return NOT_FOUND;
    snprintf(name, length, "%s", called);
    return SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetUUID(device_t *device, char *uuid, unsigned length) {
    CHECK("GetUUID", device->gpu);
    if (device->instance < 0)
        snprintf(uuid, length, "GPU-%08x-0000-4000-8000-000000000000", 0xa4000000u + (unsigned)device->gpu);
    else
        snprintf(uuid, length, "MIG-%08x-0000-4000-8000-%012d", 0xa4000000u + (unsigned)device->gpu, device->instance);
    return SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetMemoryInfo(device_t *device, nvmlMemory_t *memory) {
    long total, used;
    CHECK("GetMemoryInfo", device->gpu);
    if (!memory_of(device, &total, &used, NULL)) return NOT_FOUND;
    memory->total = (unsigned long long)total * MIB;
    memory->used = (unsigned long long)used * MIB;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetMigMode(device_t *device, unsigned *current, unsigned *pending) {
    FILE *file;
    char line[256];
    int gpu, mig = 0, can = 0;
    CHECK("GetMigMode", device->gpu);
    file = facts();
    while (file && fgets(line, sizeof line, file)) {
        if (sscanf(line, "mig %d", &gpu) == 1 || sscanf(line, "instance %d", &gpu) == 1) {
            can = 1;
            mig |= gpu == device->gpu;
        }
    }
    if (file) fclose(file);
    if (!can) return NOT_SUPPORTED; /* an A40 cannot be cut */
    *current = *pending = (unsigned)mig;
    return SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(device_t *device, unsigned *count) {
    CHECK("GetMaxMigDeviceCount", device->gpu);
    *count = 7;
    return SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(device_t *device, unsigned index, device_t **instance) {
    device_t wanted = {device->gpu, (int)index};
    long total, used;
    CHECK("GetMigDeviceHandleByIndex", device->gpu);
    if (!memory_of(&wanted, &total, &used, NULL)) return NOT_FOUND;
    devices[device->gpu][1 + index] = wanted;
    *instance = &devices[device->gpu][1 + index];
    return SUCCESS;
}

static nvmlReturn_t processes(const char *kind, device_t *device, unsigned *count, process_v3_t *list) {
    FILE *file = facts();
    char line[256], word[16];
    int gpu, instance, pid;
    long used;
    unsigned found = 0;
    while (file && fgets(line, sizeof line, file)) {
        if (sscanf(line, "%15s %d %d %d %ld", word, &gpu, &instance, &pid, &used) != 5 || strcmp(word, kind)) continue;
        if (gpu != device->gpu || instance != device->instance) continue;
        if (list && found < *count)
            list[found] = (process_v3_t){(unsigned)pid, used < 0 ? ~0ull : (unsigned long long)used * MIB, ~0u, ~0u};
        found++;
    }
    if (file) fclose(file);
    if (found > (list ? *count : 0)) {
        *count = found;
        return TOO_SMALL;
    }
    *count = found;
    return SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(device_t *device, unsigned *count, process_v3_t *list) {
    CHECK("GetComputeRunningProcesses", device->gpu);
    return processes("process", device, count, list);
}

/* Of this one only the older version is there, as with a driver of before 2021. */
API nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v2(device_t *device, unsigned *count, process_v3_t *list) {
    CHECK("GetGraphicsRunningProcesses", device->gpu);
    return processes("drawing", device, count, list);
}
