// The tests that need other people's libraries. A module of its own, so that the product's
// module lists only what goes into the product.
module dunlin/testbench/peers

go 1.26.0

require github.com/hanwen/go-fuse/v2 v2.12.1

require golang.org/x/sys v0.49.0 // indirect

replace dunlin => ../..
