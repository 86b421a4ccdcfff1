package load

// rower writes one line of a table.
type rower func(name, format string, args ...any)

type Idle struct{}

func (i *Idle) rows(row rower) {}

type Storm struct{}

func (s *Storm) rows(row rower) {}

type Offline struct{}

func (o *Offline) rows(row rower) {}
