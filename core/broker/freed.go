package broker

// freed counts the memory of connections that have ended, until it is worth telling of.
type freed struct {
	tell  func() // nil = nobody wants to know
	bytes int
}

const (
	freedConnection = 1 << 10 // bytes of a connection with its session, about
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
	if f.bytes >= muchFreed {
		f.bytes = 0
		f.tell()
	}
}
