module gpuops.nim/rehearsal/kserve-crd-0.17

go 1.26.0

require github.com/kserve/kserve v0.17.0
