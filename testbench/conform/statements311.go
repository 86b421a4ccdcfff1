package main

// statements311 are those of MQTT 3.1.1, OASIS Standard of 29 October 2014, with its numbers.
var statements311 = []statement{
	{id: "MQTT-1.5.3-1", says: "strings are well-formed UTF-8 without surrogates", row: 1, check: badUTF8Closes},
	{id: "MQTT-1.5.3-2", says: "strings have no null character", row: 1, check: nullInAStringCloses},
	{id: "MQTT-1.5.3-3", says: "a byte order mark is kept wherever it stands", row: 1, check: byteOrderMarkStays},
	{id: "§2.2.3", says: "the Remaining Length has at most four bytes", row: 1, check: longVariableByteIntegersClose},

	{id: "MQTT-2.2.2-1", says: "reserved flags are as the table says", row: 2, check: reservedFlagsClose},
	{id: "MQTT-2.2.2-2", says: "wrong flags close", row: 2, check: reservedFlagsClose},
	{id: "MQTT-3.1.2-3", says: "the reserved Connect Flag is 0", row: 2, check: reservedConnectFlagCloses},
	{id: "MQTT-3.6.1-1", says: "PUBREL has the flags 0010", row: 2, check: pubrelFlagsClose},
	{id: "MQTT-3.8.1-1", says: "SUBSCRIBE has the flags 0010", row: 2, check: subscribeFlagsClose},
	{id: "MQTT-3.10.1-1", says: "UNSUBSCRIBE has the flags 0010", row: 2, check: unsubscribeFlagsClose},
	{id: "MQTT-3.14.1-1", says: "DISCONNECT has no flags", row: 2, check: disconnectFlagsClose},
	{id: "MQTT-3.8.3-4", says: "the reserved bits behind a filter are 0, and QoS 3 closes", row: 2, check: reservedSubscriptionOptionsClose},

	{id: "MQTT-2.3.1-1", says: "packet ids are not zero", row: 3, check: packetIDZeroCloses},
	{id: "MQTT-2.3.1-2", says: "packet ids of a client are not in use", row: 3, note: aboutClients},
	{id: "MQTT-2.3.1-3", says: "what is sent again has its packet id", row: 3, check: resendsComeWithTheirIDs},
	{id: "MQTT-2.3.1-4", says: "the same holds for a server that publishes", row: 3, check: packetIDsInUseAreNotGivenAgain},
	{id: "MQTT-2.3.1-5", says: "a PUBLISH at QoS 0 has no packet id", row: 3, check: qos0IsNotAcknowledged},
	{id: "MQTT-2.3.1-6", says: "acknowledgements of a PUBLISH have its id", row: 3, check: qos2IsAcknowledged},
	{id: "MQTT-2.3.1-7", says: "SUBACK and UNSUBACK have the id of their request", row: 3, check: subackAnswersEachFilter},

	{id: "MQTT-4.8.0-1", says: "a violation of the protocol closes", row: 5, check: rubbishClosesWithReason},
	{id: "MQTT-4.8.0-2", says: "what cannot be done now, and cannot be said, closes", row: 5, test: "core/broker.TestQoS2IsRefusedBeforeAnybodyHasIt"},
	{id: "§2.2.1", says: "packets that only a server sends close", row: 5, check: serverPacketsFromAClientClose},

	{id: "MQTT-3.1.0-1", says: "the first packet of a client is CONNECT", row: 6, check: firstPacketIsConnect},
	{id: "MQTT-7.1.1-1", says: "there is a transport that is an ordered, lossless stream of bytes", row: 6, check: pingIsAnswered},
	{id: "MQTT-3.1.0-2", says: "a second CONNECT closes", row: 6, check: secondConnectCloses},
	{id: "§3.1.4", says: "a connection without a CONNECT is closed after reasonable time", row: 6, check: silenceBeforeConnectCloses},

	{id: "MQTT-3.1.2-1", says: "another protocol name is not served", row: 7, check: wrongProtocolNameIsRefused},
	{id: "MQTT-3.1.2-2", says: "another protocol level is refused with 0x01 and closed", row: 7, check: unknownVersionIsRefused},

	{id: "MQTT-3.1.2-4", says: "Clean Session 0 resumes the session, or begins one", row: 8, check: sessionIsResumed},
	{id: "MQTT-3.1.2-5", says: "QoS 1 and 2 for an absent session are kept", row: 8, check: sessionIsResumed},
	{id: "MQTT-3.1.2-6", says: "Clean Session 1 discards the session before", row: 8, check: cleanStartDiscardsTheSession},
	{id: "MQTT-3.1.2-6 (end)", says: "and its own ends with its connection", row: 8, check: sessionEndsWithItsConnection},
	{id: "MQTT-3.1.4-3", says: "Clean Session is acted on", row: 8, check: cleanStartDiscardsTheSession},
	{id: "MQTT-3.2.2-1", says: "Clean Session 1: Session Present is 0", row: 8, check: cleanStartDiscardsTheSession},
	{id: "MQTT-3.2.2-2", says: "Clean Session 0 with a session: Session Present is 1", row: 8, check: sessionIsResumed},
	{id: "MQTT-3.2.2-3", says: "Clean Session 0 without a session: Session Present is 0", row: 8, check: sessionIsNewIfThereIsNone},
	{id: "MQTT-3.2.2-4", says: "a refusal has Session Present 0", row: 8, check: refusedConnectIsTheEnd},

	{id: "MQTT-4.1.0-1", says: "a session is stored as long as it lasts, over a power cut, too", row: 9, check: sessionSurvivesAKill},
	{id: "MQTT-4.1.0-2", says: "a session lasts at least as long as its connection", row: 9, check: takeoverClosesTheOldConnection},

	{id: "MQTT-3.1.3-6", says: "without a client id one is assigned, if the server likes", row: 10, check: clientIDIsAssigned},
	{id: "MQTT-3.1.3-7", says: "without a client id Clean Session is 1", row: 10, check: namelessLastingSessionIsRefused},
	{id: "MQTT-3.1.3-8", says: "or the CONNECT is refused with 0x02 and closed", row: 10, check: namelessLastingSessionIsRefused},

	{id: "MQTT-3.1.3-2", says: "the client id names the session", row: 11, check: sessionIsResumed},
	{id: "MQTT-3.1.3-3", says: "the client id is the first field of the payload", row: 11, check: malformedConnectCloses},
	{id: "MQTT-3.1.3-4", says: "the client id is a UTF-8 string", row: 11, check: badUTF8Closes},
	{id: "MQTT-3.1.3-5", says: "1 to 23 letters and digits are accepted", row: 11, check: usualClientIDsAreAccepted},
	{id: "MQTT-3.1.3-9", says: "a client id that is refused is refused with 0x02", row: 11, check: reservedClientIDIsRefused},

	{id: "MQTT-3.1.4-2", says: "a client id in use: the old connection is closed", row: 12, check: takeoverClosesTheOldConnection},

	{id: "MQTT-3.1.4-1", says: "a CONNECT of bad form closes without a CONNACK", row: 13, check: malformedConnectCloses},
	{id: "MQTT-3.1.4-5", says: "nothing behind a refused CONNECT is acted on", row: 13, check: refusedConnectIsTheEnd},

	{id: "MQTT-3.1.4-4", says: "a CONNECT is answered with CONNACK 0", row: 14, check: connackHasItsForm},
	{id: "MQTT-3.2.0-1", says: "the CONNACK is the first packet of a server", row: 14, check: connackIsFirstAndOnce},
	{id: "MQTT-3.2.2-5", says: "a CONNACK other than 0 is followed by the end", row: 14, check: refusedConnectIsTheEnd},
	{id: "MQTT-3.2.2-6", says: "without a code that fits it closes without a CONNACK", row: 14, check: malformedConnectCloses},

	{id: "MQTT-3.1.2-18", says: "user name flag 0: no user name", row: 15, check: userNameFlagsMatchThePayload},
	{id: "MQTT-3.1.2-19", says: "user name flag 1: a user name", row: 15, check: userNameWithoutPassword},
	{id: "MQTT-3.1.2-20", says: "password flag 0: no password", row: 15, check: userNameFlagsMatchThePayload},
	{id: "MQTT-3.1.2-21", says: "password flag 1: a password", row: 15, check: userNameFlagsMatchThePayload},
	{id: "MQTT-3.1.2-22", says: "no password without a user name", row: 15, check: passwordWithoutUserName},
	{id: "MQTT-3.1.3-11", says: "the user name is a UTF-8 string", row: 15, check: userNameFlagsMatchThePayload},

	{id: "MQTT-3.1.2-24", says: "silence for 1.5 times the keep alive closes", row: 16, check: keepAliveClosesAfterOneAndAHalf},
	{id: "MQTT-3.1.2-23", says: "a client sends something within the keep alive", row: 16, note: aboutClients},
	{id: "§3.1.2.10", says: "any packet keeps the connection, and keep alive 0 is off", row: 16, check: pingsKeepAlive},

	{id: "MQTT-3.1.2-8", says: "a will is published when the connection ends without DISCONNECT", row: 18, check: willIsPublished},
	{id: "MQTT-3.1.2-9", says: "a will has its topic and message in the CONNECT", row: 18, check: willFieldsAreThere},
	{id: "MQTT-3.1.2-9 (use)", says: "its QoS and retain flag are those of the CONNECT", row: 18, check: willIsPublished},
	{id: "MQTT-3.1.2-10", says: "a will that was published is gone", row: 18, check: willIsPublishedOnce},
	{id: "MQTT-3.1.2-12", says: "without a will none is published", row: 18, check: disconnectDeletesTheWill},
	{id: "MQTT-3.14.4-3", says: "DISCONNECT deletes the will", row: 18, check: disconnectDeletesTheWill},

	{id: "MQTT-3.1.2-11", says: "no will: no QoS, no retain flag, no topic", row: 20, check: badWillsAreRefused},
	{id: "MQTT-3.1.2-13", says: "no will: its QoS is 0", row: 20, check: badWillsAreRefused},
	{id: "MQTT-3.1.2-14", says: "a will's QoS is 0, 1 or 2", row: 20, check: badWillsAreRefused},
	{id: "MQTT-3.1.2-15", says: "no will: its retain flag is 0", row: 20, check: badWillsAreRefused},
	{id: "MQTT-3.1.2-16", says: "a will without retain flag is not retained", row: 20, check: willIsRetained},
	{id: "MQTT-3.1.2-17", says: "a will with retain flag is retained", row: 20, check: willIsRetained},
	{id: "MQTT-3.1.3-1", says: "the fields of the payload come in their order", row: 20, check: badWillsAreRefused},
	{id: "MQTT-3.1.3-10", says: "the topic of a will is a UTF-8 string", row: 20, check: badWillsAreRefused},

	{id: "MQTT-3.3.4-1", says: "a PUBLISH is answered as its QoS asks", row: 21, check: qos1IsAcknowledged},
	{id: "MQTT-4.3.1-1", says: "QoS 0: sent with DUP 0", row: 21, check: messagesArriveAtEachQoS},
	{id: "MQTT-4.3.2-1", says: "QoS 1: a free id, DUP 0, unacknowledged until its PUBACK", row: 21, check: packetIDsInUseAreNotGivenAgain},
	{id: "MQTT-4.3.2-2", says: "QoS 1: answered with a PUBACK of its id, which is free then", row: 21, check: qos1IsAcknowledged},

	{id: "MQTT-4.3.3-1", says: "QoS 2: PUBREL answers PUBREC, and PUBLISH does not come again", row: 22, check: pubrelFollowsPubrec},
	{id: "MQTT-4.3.3-2", says: "QoS 2: delivered once however often it comes before PUBREL", row: 22, check: duplicateAcrossAReconnectIsNotDelivered},
	{id: "§4.3.3", says: "QoS 2: once, whenever the power goes", row: 22, check: flowsSurviveAKill},

	{id: "MQTT-4.4.0-1", says: "what is unacknowledged comes again with its ids after a reconnect", row: 23, check: resendsComeWithTheirIDs},
	{id: "§4.4", says: "nothing comes again on a timer, unless the operator wants it", row: 23, check: nothingIsResentOnATimer},
	{id: "MQTT-4.6.0-1", says: "what comes again comes in its order", row: 23, check: resendsComeWithTheirIDs},

	{id: "MQTT-3.3.1-1", says: "DUP is 1 when a PUBLISH is sent again", row: 24, check: resendsComeWithTheirIDs},
	{id: "MQTT-3.3.1-2", says: "DUP is 0 at QoS 0", row: 24, check: dupAtQoS0Closes},
	{id: "MQTT-3.3.1-3", says: "DUP of what came in is not passed on", row: 24, check: dupIsNotPassedOn},

	{id: "MQTT-4.6.0-2", says: "PUBACKs come in the order of their PUBLISH packets", row: 25, check: acknowledgementsKeepTheOrder},
	{id: "MQTT-4.6.0-3", says: "PUBRECs come in the order of their PUBLISH packets", row: 25, check: acknowledgementsKeepTheOrder},
	{id: "MQTT-4.6.0-4", says: "PUBRELs come in the order of their PUBRECs", row: 25, check: releasesKeepTheOrder},
	{id: "MQTT-4.6.0-5", says: "topics are ordered by default", row: 25, check: orderIsKept},
	{id: "MQTT-4.6.0-6", says: "the messages of one publisher keep their order", row: 25, check: orderIsKept},

	{id: "MQTT-3.3.1-4", says: "QoS 3 closes", row: 26, check: qos3Closes},
	{id: "MQTT-3.8.4-6", says: "the QoS is the lower of the published and the granted", row: 26, check: qosIsTheLower},
	{id: "MQTT-3.3.5-1", says: "overlapping subscriptions: the highest QoS", row: 26, check: overlappingSubscriptionsTakeTheHighestQoS},

	{id: "§2.2.3 (size)", says: "a packet that claims 256 MB is refused at its header", row: 36, check: enormousPacketIsRefused},

	{id: "MQTT-3.3.1-5", says: "a retained message is stored", row: 37, check: retainedIsReplacedAndRemoved},
	{id: "MQTT-3.3.1-7", says: "one at QoS 0 replaces what was retained", row: 37, check: retainedIsReplacedAndRemoved},
	{id: "MQTT-3.3.1-10", says: "an empty one removes it", row: 37, check: retainedIsReplacedAndRemoved},
	{id: "MQTT-3.3.1-11", says: "an empty one is not stored", row: 37, check: retainedIsReplacedAndRemoved},
	{id: "MQTT-3.3.1-12", says: "a message without the flag neither is stored nor replaces", row: 37, check: retainedIsReplacedAndRemoved},
	{id: "MQTT-3.1.2-7", says: "retained messages are no part of a session", row: 37, check: retainedOutlivesItsSession},
	{id: "§3.3.1.3", says: "retained messages and their removal outlive a power cut", row: 37, check: retainedSurvivesAKill},

	{id: "MQTT-3.3.5-2", says: "who may not publish is acknowledged or closed", row: 39, check: forbiddenPublishIsAcknowledgedOrCloses},

	{id: "MQTT-3.8.3-1", says: "Topic Filters are UTF-8 strings", row: 41, check: badUTF8Closes},
	{id: "MQTT-3.8.3-2", says: "filters with wildcards are served, or the request is refused", row: 41, check: wildcardsAreServedOrRefused},
	{id: "MQTT-3.8.3-3", says: "SUBSCRIBE has at least one filter", row: 41, check: emptySubscribeCloses},
	{id: "§3.8.3", says: "each filter has its QoS", row: 41, check: subscribeWithoutOptionsCloses},
	{id: "MQTT-3.8.4-1", says: "SUBSCRIBE is answered with a SUBACK", row: 41, check: subackAnswersEachFilter},
	{id: "MQTT-3.8.4-2", says: "the SUBACK has the id of its SUBSCRIBE", row: 41, check: subackAnswersEachFilter},
	{id: "MQTT-3.8.4-4", says: "several filters are as several SUBSCRIBEs with one answer", row: 41, check: mixedSubackKeepsTheOrder},
	{id: "MQTT-3.8.4-5", says: "the SUBACK has a code for each filter", row: 41, check: mixedSubackKeepsTheOrder},
	{id: "MQTT-3.9.3-1", says: "the codes are in the order of the filters", row: 41, check: subackAnswersEachFilter},
	{id: "MQTT-3.9.3-2", says: "the codes are 0, 1, 2 and 0x80", row: 41, check: mixedSubackKeepsTheOrder},

	{id: "MQTT-3.8.4-3", says: "the same filter again replaces, loses nothing, retained messages come again", row: 42, check: resubscribeReplaces},
	{id: "MQTT-3.8.4-3 (flow)", says: "and the flow of messages is not interrupted", row: 42, check: resubscribeLosesNothing},

	{id: "MQTT-3.3.1-8", says: "RETAIN is 1 for a new subscription", row: 44, check: retainedIsMarkedForNewSubscriptionsOnly},
	{id: "MQTT-3.3.1-9", says: "RETAIN is 0 for one that was there", row: 44, check: retainedIsMarkedForNewSubscriptionsOnly},
	{id: "MQTT-3.3.1-6", says: "a new subscription gets the retained messages", row: 45, check: retainedIsMarkedForNewSubscriptionsOnly},

	{id: "MQTT-3.3.2-1", says: "the Topic Name is there, first, a UTF-8 string", row: 46, check: emptyTopicNameCloses},
	{id: "MQTT-3.3.2-2", says: "a Topic Name has no wildcards", row: 46, check: wildcardsInTopicNamesClose},
	{id: "MQTT-3.3.2-3", says: "what comes matches the filter", row: 46, check: filtersMatch},
	{id: "MQTT-4.7.1-1", says: "wildcards stand in filters only", row: 46, check: wildcardsInTopicNamesClose},
	{id: "MQTT-4.7.1-2", says: "# is a whole level, and the last", row: 46, check: badFiltersAreRefused},
	{id: "MQTT-4.7.1-3", says: "+ is a whole level", row: 46, check: badFiltersAreRefused},
	{id: "MQTT-4.7.2-1", says: "a wildcard at the beginning does not match $", row: 46, check: wildcardsDoNotMatchDollar},
	{id: "MQTT-4.7.3-1", says: "names and filters have at least one character", row: 46, check: badFiltersAreRefused},
	{id: "MQTT-4.7.3-2", says: "names and filters have no null character", row: 46, check: nullInAStringCloses},
	{id: "MQTT-4.7.3-3", says: "names and filters have at most 65,535 bytes", row: 46, check: longTopicsAreCarriedOrRefusedAtOnce},
	{id: "MQTT-4.7.3-4", says: "names and filters are compared as they are", row: 46, check: filtersMatch},

	{id: "MQTT-3.10.3-1", says: "filters of UNSUBSCRIBE are UTF-8 strings", row: 48, check: badUTF8Closes},
	{id: "MQTT-3.10.3-2", says: "UNSUBSCRIBE has at least one filter", row: 48, check: emptyUnsubscribeCloses},
	{id: "MQTT-3.10.4-1", says: "filters are compared character by character", row: 48, check: unsubscribeMatchesExactly},
	{id: "MQTT-3.10.4-2", says: "nothing new comes for the filter", row: 48, check: unsubscribeMatchesExactly},
	{id: "MQTT-3.10.4-3", says: "what has been begun at QoS 1 and 2 is completed", row: 48, check: unsubscribeFinishesWhatIsUnderWay},
	{id: "MQTT-3.10.4-4", says: "UNSUBSCRIBE is answered with an UNSUBACK of its id", row: 48, check: unsubscribeMatchesExactly},
	{id: "MQTT-3.10.4-5", says: "also where nothing was deleted", row: 48, check: unsubscribeMatchesExactly},
	{id: "MQTT-3.10.4-6", says: "several filters are as several UNSUBSCRIBEs with one answer", row: 48, check: unsubscribeMatchesExactly},

	{id: "MQTT-4.5.0-1", says: "a message goes to every session with a matching subscription", row: 49, check: everySessionGetsItsMessage},
	{id: "MQTT-4.5.0-2", says: "a client acknowledges what it gets, whether it wants it or not", row: 49, note: aboutClients},
	{id: "MQTT-3.12.4-1", says: "PINGREQ is answered with PINGRESP", row: 50, check: pingIsAnswered},

	{id: "MQTT-3.14.4-1", says: "a client closes after DISCONNECT", row: 51, note: aboutClients},
	{id: "MQTT-3.14.4-2", says: "a client sends nothing after DISCONNECT", row: 51, note: aboutClients},
	{id: "§3.14.4", says: "the server closes upon DISCONNECT and acts on nothing behind it", row: 51, check: nothingComesAfterDisconnect},

	{id: "§3.2.2.3 (rate)", says: "a CONNECT above the rate of its listener: return code 3", row: 55, test: "core/broker.TestConnectAboveTheRateIsRefused"},

	{id: "MQTT-7.0.0-1", says: "a server that is a client of another is a conformant client", row: 57, test: "uplink/mqtt.TestWhatTheServerAllowsIsObeyed"},
	{id: "MQTT-7.0.0-2", says: "no extension is needed", row: 58, check: pingIsAnswered},
	{id: "MQTT-7.1.2-1", says: "the transport of a client", row: 57, note: aboutClients},

	{id: "§1.2", says: "messages of clients of 5.0 come without their properties", row: 58, check: propertiesAreNotForOlderClients},
}
