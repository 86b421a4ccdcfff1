// The tests that need other people's libraries. A module of its own, so that the product's
// module lists only what goes into the product.
module dunlin/testbench/peers

go 1.26.0

require (
	dunlin v0.0.0-00010101000000-000000000000
	github.com/eclipse/paho.golang v0.23.0
	github.com/eclipse/paho.mqtt.golang v1.5.1
	github.com/hanwen/go-fuse/v2 v2.12.1
	golang.org/x/sys v0.49.0
)

require (
	github.com/gorilla/websocket v1.5.3 // indirect
	go.etcd.io/bbolt v1.5.0 // indirect
	golang.org/x/net v0.44.0 // indirect
	golang.org/x/sync v0.20.0 // indirect
)

replace dunlin => ../..
