package doctor

import (
	"errors"
	"syscall"
)

// userNamespaces is what comes of making one, as labs and an ordinary user's tunlb do.
type userNamespaces struct {
	made error // of making it
	able error // of using a privilege in there; valid iff it could be made
	root bool  // the machine's own root has tried, whom the settings for ordinary users do not concern
	// Settings; "" where the kernel does not have them.
	most, clone, restricted string
}

// The settings' paths below /proc/sys.
const (
	mostPath       = "user/max_user_namespaces"
	clonePath      = "kernel/unprivileged_userns_clone"             // Debian's
	restrictedPath = "kernel/apparmor_restrict_unprivileged_userns" // Ubuntu's
)

// checkUserNamespaces is about who has no privilege here: for labs and demo, and for tunlb in a network namespace of
// their own. Who has it is told what others lack.
func checkUserNamespaces(f *facts) []Finding {
	var l findings
	const subject = "user namespaces"
	u := f.userns
	severity, who := Warn, "demo, lab and a tunlb of one's own have to do without"
	if f.caps.admin == nil {
		severity, who = Note, "ordinary users' demo, lab and tunlb have to do without; this process has its privilege anyway"
	}
	switch {
	case u.most == "0":
		l.add(severity, subject, "sysctl -w user.max_user_namespaces=15000", "user.max_user_namespaces is 0, so that there are none: %s", who)
	case u.clone == "0" && (u.root || u.made != nil):
		l.add(severity, subject, "sysctl -w kernel.unprivileged_userns_clone=1", "kernel.unprivileged_userns_clone is 0, so that only root can make them: %s", who)
	case u.restricted == "1" && (u.root || u.made != nil || u.able != nil):
		l.add(severity, subject, "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
			"can be made, but AppArmor denies all privileges in there (kernel.apparmor_restrict_unprivileged_userns): %s", who)
	case errors.Is(u.made, syscall.ENOSPC), errors.Is(u.made, syscall.EUSERS):
		l.add(severity, subject, "sysctl -w user.max_user_namespaces=15000", "there are as many as may be (%v), or they are in each other too deep: %s", u.made, who)
	case u.made != nil:
		l.add(severity, subject, "tunlb demo  # falls back to a simulated network", "cannot be made (%v), as in most containers: %s", u.made, who)
	case u.able != nil:
		l.add(severity, subject, "tunlb demo  # falls back to a simulated network", "can be made, but have no privileges (%v): %s", u.able, who)
	}
	return l.orOK(subject, "can be made, and have their privileges")
}
