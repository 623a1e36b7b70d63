// Package ipvs is ipvsadm's language: its command line ([Parse]), the table that its commands change
// ([State.Apply]), its listings ([List]) and its saved form ([Save], [Restore]), with the messages and exit
// codes of ipvsadm 1.31 over Linux IPVS.
//
// It is text in, text out: it owns neither the services that run, nor their counters, nor the way to the
// daemon, and names are resolved by functions that it is given. Everything here is a plain value, safe to
// use from many goroutines as long as nobody changes it.
package ipvs

// Error is what ipvsadm says, and the code that it exits with. The message goes to stderr as it is.
type Error struct {
	Message string `json:"message"`
	Code    int    `json:"code"`
}

func (e *Error) Error() string { return e.Message }

// Exit codes of ipvsadm.
const (
	exitList   = 1   // the service to be listed is missing
	exitUsage  = 2   // what the command line says makes no sense
	exitFailed = 255 // the kernel refused, or the command line is not understood at all
)
