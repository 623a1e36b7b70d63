package policy

// failover is fo's load: the server of the highest weight has the least. All connections go to it, and to
// the next one when it is not available.
func failover(s *Server) load { return load{1, int64(s.Weight)} }

// overflow is ovf's load: as fo's, but a server with more active connections than its weight takes no more.
// UDP has no active connections and never flows over.
func overflow(s *Server) load {
	if s.Active > s.Weight {
		return infinite
	}
	return failover(s)
}
