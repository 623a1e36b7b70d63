package port

// Descriptor is the descriptor of a TUN's or TAP's queue, or of a packet socket: what OpenTUN, OpenTAP and OpenPacket take as Inherited. ok is
// false for ports that have none, which are all others. It is borrowed until the port is closed: whoever wants the device to outlive the port
// duplicates it. While a duplicate is open, Close leaves the device as it is, with what it was told and with the frames that wait
// in its queue. Two that read one queue take each other's frames: close the port before the duplicate is used.
func Descriptor(p Port) (fd int, ok bool) {
	if d, has := p.(interface{ descriptor() (int, bool) }); has {
		return d.descriptor()
	}
	return -1, false
}
