package policy

// scheduler is one service's picking state. The list is the service's, in list order.
type scheduler interface {
	// pick chooses among the servers, nil if none is available. It must not allocate.
	pick(list []*Server, c Client) *Server

	// start begins on a service that has had its servers before: its scheduler was changed.
	start(list []*Server)

	// update follows a change of the list or of weights. old is the list before it, empty for a new
	// service; its servers carry their new weights already.
	update(old, list []*Server)
}

// defaultScheduler is IPVS's.
const defaultScheduler = "wlc"

// Schedulers lists the names that Spec.Scheduler may have.
func Schedulers() []string { return []string{"rr", "wrr", "lc", "wlc"} }

// newScheduler returns nil for an unknown name.
func newScheduler(name string) scheduler {
	switch name {
	case "rr":
		return &roundRobin{last: head}
	case "wrr":
		return &weightedRoundRobin{last: head}
	case "lc":
		return leastConnection{}
	case "wlc":
		return leastConnection{weighted: true}
	}
	return nil
}

// head is the cursor position in front of a list's first server.
const head = -1
