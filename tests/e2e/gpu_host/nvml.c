// SPDX-License-Identifier: GPL-3.0-or-later
// As much of NVIDIA's management library as nvidia-ctk asks to write a CDI specification, of four cards that `gpu` made.
#include <stdio.h>
#include <string.h>

enum { SUCCESS = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6, GPUS = 4 };
typedef size_t device; // its index + 1
typedef struct {
    char legacy[16];
    unsigned domain, bus, slot, id, subsystem;
    char bus_id[32];
} pci;

int nvmlInit_v2(void) { return SUCCESS; }
int nvmlInitWithFlags(unsigned flags) { return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int error) { return error == NOT_SUPPORTED ? "Not Supported" : "Not Found"; }

int nvmlSystemGetDriverVersion(char *text, unsigned size) {
    FILE *file = fopen("/sys/module/nvidia/version", "r");
    if (!file || !fgets(text, size, file)) return NOT_FOUND;
    fclose(file);
    text[strcspn(text, "\n")] = 0;
    return SUCCESS;
}

int nvmlSystemGetCudaDriverVersion(int *version) { *version = 13000; return SUCCESS; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = GPUS; return SUCCESS; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, device *found) {
    *found = index + 1;
    return index < GPUS ? SUCCESS : NOT_FOUND;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, device *found) {
    unsigned index;
    if (sscanf(uuid, "GPU-%8u-", &index) != 1) return NOT_FOUND;
    return nvmlDeviceGetHandleByIndex_v2(index, found);
}

int nvmlDeviceGetIndex(device card, unsigned *index) { *index = card - 1; return SUCCESS; }
int nvmlDeviceGetMinorNumber(device card, unsigned *number) { *number = card - 1; return SUCCESS; }

int nvmlDeviceGetName(device card, char *text, unsigned size) {
    snprintf(text, size, "NVIDIA H100 80GB HBM3");
    return SUCCESS;
}

int nvmlDeviceGetUUID(device card, char *text, unsigned size) { // as the device plugin's stand-in calls them
    snprintf(text, size, "GPU-%08u-0000-4000-8000-000000000000", (unsigned)card - 1);
    return SUCCESS;
}

int nvmlDeviceGetPciInfo_v3(device card, pci *info) {
    memset(info, 0, sizeof *info);
    info->bus = card;
    snprintf(info->bus_id, sizeof info->bus_id, "00000000:%02X:00.0", info->bus);
    return SUCCESS;
}

int nvmlDeviceGetMigMode(device card, unsigned *current, unsigned *pending) { return NOT_SUPPORTED; }
int nvmlDeviceGetMaxMigDeviceCount(device card, unsigned *count) { *count = 0; return SUCCESS; }
int nvmlDeviceIsMigDeviceHandle(device card, unsigned *is) { *is = 0; return SUCCESS; }
