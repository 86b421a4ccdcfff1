package packet

import (
	"reflect"
	"testing"
)

func TestTravellingPropertiesAreTakenApartAndPutTogether(t *testing.T) {
	for _, tt := range []struct {
		name  string
		block string
		want  Travelling
	}{
		{"none", "", Travelling{}},
		{
			"all",
			"\x01\x01\x03" + str("text/plain") + "\x08" + str("reply") + "\x09" + str("\x00\x01") + user("a", "b") + user("a", "c"),
			Travelling{
				PayloadFormat: 1, HasPayloadFormat: true,
				ContentType: []byte("text/plain"), ResponseTopic: []byte("reply"), CorrelationData: []byte{0, 1},
				UserProperties: []byte(user("a", "b") + user("a", "c")),
			},
		},
		{
			"empty ones are there",
			"\x01\x00\x03" + str("") + "\x09" + str(""),
			Travelling{HasPayloadFormat: true, ContentType: []byte{}, CorrelationData: []byte{}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseTravelling([]byte(tt.block))
			if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("ParseTravelling = %+v, %v, want %+v", got, err, tt.want)
			}
			if again := AppendTravelling([]byte("before"), &tt.want); string(again) != "before"+tt.block {
				t.Errorf("AppendTravelling wrote %q, want %q", again, tt.block)
			}
		})
	}
}

func FuzzParseTravelling(f *testing.F) {
	f.Add([]byte("\x01\x01\x03" + str("text/plain") + "\x08" + str("reply") + "\x09" + str("\x00\x01") + user("a", "b")))
	f.Add([]byte(user("a", "b") + "\x01\x00" + user("c", "d")))
	f.Add([]byte("\x08" + str("a/+")))
	f.Fuzz(func(t *testing.T, block []byte) {
		cutEverywhere(block, func(b []byte) error { _, err := ParseTravelling(b); return err })
		got, err := ParseTravelling(block)
		if err != nil {
			return
		}
		again, err := ParseTravelling(AppendTravelling(nil, &got))
		if err != nil {
			t.Fatalf("%X parses, what is written of it does not: %v", block, err)
		}
		onlyUser(&got.UserProperties)
		if !reflect.DeepEqual(got, again) {
			t.Fatalf("%X is %+v and then %+v", block, got, again)
		}
	})
}

// onlyUser takes out of a parsed stretch what stands between the User Properties, as an Append
// does, so that two values can be compared.
func onlyUser(block *[]byte) {
	if *block != nil {
		*block = appendOnly(nil, *block, userSet)
	}
}
