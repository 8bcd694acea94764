module gpuops.nim/rehearsal/kserve-crd-0.15

go 1.26.0

require github.com/kserve/kserve v0.15.2
