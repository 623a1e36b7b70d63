package port

import "fmt"

// OpenDirect returns a way out of every Ethernet interface of the network namespace at path netns ("" is the caller's),
// by one packet socket. It receives nothing and changes no interface. There are packet sockets on
// Linux only. The error wraps ErrUnavailable without the right to open one.
func OpenDirect(netns string) (*Direct, error) {
	d, err := openDirect(netns)
	if err != nil {
		return nil, fmt.Errorf("open packet socket to send directly: %w", err)
	}
	return d, nil
}
