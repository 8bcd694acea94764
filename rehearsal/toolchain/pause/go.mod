module gpuops.nim/rehearsal/pause

go 1.26.0
