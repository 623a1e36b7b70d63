package aside

import "os"

// path is what this process executes, also when another file has taken its place meanwhile.
func (p Program) path() (string, error) {
	if p.Path != "" {
		return p.Path, nil
	}
	return "/proc/self/exe", nil
}

// giveWay has this process be the one that ends where memory is short, and not who forwards. Where it can't be had nothing is lost.
func giveWay() { _ = os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0) }
