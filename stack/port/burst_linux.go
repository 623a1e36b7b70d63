package port

// NewBurst returns a way to send many frames by one system call. Close of d closes it.
func (d *Direct) NewBurst() Burst { return Singly(d.Write) }
