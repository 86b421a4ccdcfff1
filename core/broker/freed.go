package broker

// freed counts the memory of connections that have ended, and what is garbage after others have begun
// or routes were made, until it is worth telling of.
type freed struct {
	tell   func() // nil = nobody wants to know
	bytes  int
	routes uint64 // made until now
}

const (
	freedConnection = 1 << 10 // bytes of a connection with its session, about
	freedConnect    = 512     // bytes that are garbage after a CONNECT, about
	freedRoute      = 256     // bytes that are garbage after a route was made, about
	muchFreed       = 1 << 20 // bytes
)

// add counts what a connection has that is about to end.
func (f *freed) add(c *client) {
	if f.tell == nil {
		return
	}
	f.bytes += freedConnection + c.conn.Held()
	if c.slow { // its output, and a queue in memory
		f.bytes += muchFreed
	}
	f.tellIfMuch()
}

// connected counts a CONNECT.
func (f *freed) connected() {
	if f.tell == nil {
		return
	}
	f.bytes += freedConnect
	f.tellIfMuch()
}

// found counts the routes of a turn; made is how many there were until now.
func (f *freed) found(made uint64) {
	if made == f.routes || f.tell == nil {
		return
	}
	f.bytes += freedRoute * int(made-f.routes)
	f.routes = made
	f.tellIfMuch()
}

func (f *freed) tellIfMuch() {
	if f.bytes >= muchFreed {
		f.bytes = 0
		f.tell()
	}
}
