package packets

import "testing"

// TestCases runs the short form of each attack.
func TestCases(t *testing.T) {
	for _, c := range Cases() {
		t.Run(c.Name, func(t *testing.T) {
			r, err := c.Run(t.Context(), c.Short, 1)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s\n%s", c.What, r)
			if r.Failed() {
				t.Errorf("it has not held")
			}
		})
	}
}
