package packet

import (
	"fmt"
	"testing"
)

func TestTypesAndCodesHaveTheirNames(t *testing.T) {
	for _, tt := range []struct {
		value fmt.Stringer
		want  string
	}{
		{PUBLISH, "PUBLISH"},
		{AUTH, "AUTH"},
		{Type(0), "Type(0)"},
		{Type(16), "Type(16)"},
		{Success, "Success"},
		{NotAuthorized, "Not authorized"},
		{WildcardNotSupported, "Wildcard Subscriptions not supported"},
		{ReasonCode(0x03), "ReasonCode(0x03)"},
		{ReasonCode(0xFF), "ReasonCode(0xFF)"},
	} {
		t.Run(tt.want, func(t *testing.T) {
			if got := tt.value.String(); got != tt.want {
				t.Errorf("String() = %q, want %q", got, tt.want)
			}
		})
	}
}

func TestErrorSaysTheFieldAndTheCode(t *testing.T) {
	const want = "packet identifier is 0 (reason code 0x82)"
	if got := errPacketID.Error(); got != want {
		t.Errorf("Error() = %q, want %q", got, want)
	}
}
