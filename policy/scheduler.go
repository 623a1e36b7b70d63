package policy

// scheduler is one service's picking state. The list is the service's, in list order.
type scheduler interface {
	// pick chooses among the servers, nil if none is available. It must not allocate, but to remember a new client.
	pick(list []*Server, c Client) *Server

	// start begins on a service that has had its servers before: its scheduler was changed.
	start(list []*Server)

	// update follows a change of the list or of weights. old is the list before it, empty for a new
	// service; its servers carry their new weights already.
	update(old, list []*Server)

	// changed follows a change of the counts or of the availability of a server of the list.
	changed(s *Server)

	// fork is a scheduler that picks for the client as this one would, and leaves this one as it is. It knows the
	// copies of the servers.
	fork(c *Client, of mapping) scheduler

	// detach gives a fork indexes of its own, so that it may be asked while the original goes on.
	detach()

	// describe puts into words what a pick for the client, whose result is known, goes by. It changes nothing.
	describe(list []*Server, c *Client, picked *Server) account
}

// defaultScheduler is IPVS's.
const defaultScheduler = "wlc"

// Schedulers lists the names that Spec.Scheduler may have.
func Schedulers() []string {
	return []string{"rr", "wrr", "lc", "wlc", "sed", "nq", "sh", "dh", "mh", "lblc", "lblcr", "fo", "ovf", "twos", "p2c"}
}

// hashes says whether a scheduler heeds flags.
func hashes(name string) bool { return name == "sh" || name == "mh" }

// newScheduler makes the one that a spec asks for, nil for an unknown name.
func newScheduler(s *Spec) scheduler {
	switch s.Scheduler {
	case "rr":
		return &roundRobin{last: head}
	case "wrr":
		return &weightedRoundRobin{last: head}
	case "lc":
		return &leastLoad{load: connections, words: overheadWords, least: leastOverhead}
	case "wlc":
		return &leastLoad{load: weightedConnections, words: weightedWords, least: leastPerUnit}
	case "sed":
		return &leastLoad{load: expectedDelay, words: delayWords, least: leastDelay}
	case "nq":
		return &leastLoad{load: expectedDelayUnlessIdle, words: idleWords, least: leastDelay}
	case "fo":
		return &leastLoad{load: failover, words: failoverWords, least: leastFailover}
	case "ovf":
		return &leastLoad{load: overflow, words: overflowWords, least: leastFailover}
	case "sh":
		return &sourceHash{flags: s.Flags}
	case "dh":
		return &destinationHash{}
	case "mh":
		return &maglev{size: maglevSize, flags: s.Flags}
	case "lblc":
		return newLocality(false)
	case "lblcr":
		return newLocality(true)
	case "twos":
		return &twoWeighted{random: newRandom(s)}
	case "p2c":
		return &twoChoices{random: newRandom(s)}
	}
	return nil
}

// head is the cursor position in front of a list's first server.
const head = -1
