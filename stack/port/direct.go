package port

import "fmt"

// OpenDirect returns a way out of every Ethernet interface of the network namespace at path netns ("" is the caller's),
// by one packet socket. It receives nothing and changes no interface. inherited is the Descriptor of one like it in a predecessor, 0 is
// none; it is OpenDirect's, and closed if it is of something else. There are packet sockets on
// Linux only. The error wraps ErrUnavailable without the right to open one.
func OpenDirect(netns string, inherited int) (*Direct, error) {
	d, err := openDirect(netns, inherited)
	if err != nil {
		return nil, fmt.Errorf("open packet socket to send directly: %w", err)
	}
	return d, nil
}
