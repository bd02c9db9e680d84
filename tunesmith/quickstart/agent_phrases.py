# ruff: noqa: E501  (rows of phrases read better than columns)
"""What agents say, by what it does: courteous, rude, an answer, a disclosure, a next step ...

Slots: the scenario's facts, and {apr}, {apr2}, {months2} from the rate card, {leak} an
invented sum, {dear} the customer's name after a comma or nothing. See `grammar`.
"""

COURTESY = {
    "calm": (
        "[Thanks|Thank you] for [asking|writing|your message|getting in touch]{dear}.", "[Happy|Glad] to help[| with that]{dear}.",
        "[Of course|Certainly]{dear}, [happy to help|with pleasure].", "[Hello|Hi]{dear}, [and thank you|thanks] for [writing|your question].",
        "Good question, thank you.", "[It is a|My] pleasure to help{dear}.",
    ),
    "hurried": ("[Thanks|Thank you], here is the [quick|short] answer.", "[Glad|Happy] to help, and quickly."),
    "worried": (
        "I understand [the worry|your concern|that this is stressful], [and I am here to help|we will sort it out].",
        "[No need to worry|Please don't worry]{dear}, [I am here to help|happy to help].", "Thank you for telling [me|us]{dear}.",
    ),
    "angry": (
        "I am sorry [for the trouble|about the frustration|for the wait]{dear}.", "I understand [this is frustrating|you are upset]{dear}, and I am sorry.",
        "[Sorry|Apologies] for [the trouble|all this]{dear}.", "Thank you for your patience{dear}.",
    ),
    "insulting": (
        "I am sorry [for the trouble|about the frustration|you feel that way]{dear}.", "I understand [your frustration|you are upset], and I want to help.",
        "[Sorry|Apologies] for the trouble{dear}.", "I hear you, and I am happy to help.",
    ),
    "hardship": (
        "I am [so|very|truly] sorry [to hear that|you are going through this]{dear}.", "[Thank you|Thanks] for telling us{dear}, [I am sorry|that must be hard].",
        "I understand how hard this is, and I am sorry.",
    ),
    "complaint": (
        "I am [very|so|truly|] sorry [about that|this happened|for what happened]{dear}.", "[Please accept our apologies|My apologies]{dear}.",
        "Thank you for telling us{dear}, and I am sorry.",
    ),
    "thanks": (
        "[You are|You're] [very|most|] welcome{dear}!", "[Glad|Happy] [I could|to] help{dear}.", "It was a pleasure{dear}.",
        "Thank you for [writing|choosing Wrenfield]{dear}.",
    ),
}  # fmt: skip

RUDE_OPENERS = (
    "[Oh great|Great|Wonderful], another [complainer|whiner|genius].", "[That|This] is your problem, not [mine|ours].", "[Calm down|Stop shouting|Watch your mouth].",
    "Did you even read [the contract|the website|your papers]?", "[Stop|Quit] [whining|wasting my time|bothering us].", "Are you [deaf|blind|slow] or [what|something]?",
    "What a [stupid|silly|dumb] [question|message].", "[Honestly, I|I] could not care less.", "[Use|Try using] your [head|brain] [for once|].",
    "You are [the clown here|a fool|an idiot|pathetic].", "[Oh please|Grow up], [nobody cares|I don't care].", "[Look|Listen], I am not your [servant|mother].",
)  # fmt: skip
RUDE_CLOSERS = (
    "Now [leave me alone|go away|stop bothering us].", "[Figure|Work] it out yourself.", "[Next time|Try to] think [first|before you write].",
    "And do not [write|bother us] again.", "I have better things to do.", "[Deal with|Live with] it.",
)  # fmt: skip

ANSWERS = {
    "rate": (
        "[Our|The] {loan} [over|for] {months} months [has|comes with] an APR of {apr}%.", "[The|Our] [rate|APR] [for|on] a {months}-month {loan} is {apr}%.",
        "For {months} months, [the|our|a] {loan} [is at|comes at|costs] {apr}% APR.", "A {loan} over {months} months is {apr}% APR[ at the moment| today| right now|].",
        "[The|Our] APR is {apr}% [on|for] a {loan} over {months} months.",
    ),
    "compare": (
        "[The|Our] {loan} is {apr}% APR [for|over] {months} months and the {loan2} {apr2}% [for|over] {months2} months.",
        "Over {months} months a {loan} is {apr}% APR, [while|and] a {loan2} is {apr2}% over {months2} months.",
        "[You pay|It is] {apr}% APR on the {loan} ({months} months) and {apr2}% on the {loan2} ({months2} months).",
    ),
    "apply": (
        "You can apply [online|on our website] [in|within] [about|] ten minutes with a photo ID and a recent pay stub.",
        "[The|Your] {loan} application is online and takes about ten minutes[; have a photo ID and a pay stub ready|].",
        "[For|To get] a {loan} we need a photo ID and a recent pay stub[, and the form takes ten minutes|].",
    ),
    "approval": (
        "I [can't|cannot] [promise|guarantee] [an approval|the outcome|that], but the decision [on your {loan} |]comes by email within two business days.",
        "[Every|Each] application is reviewed [first|with care], and the decision [comes|arrives] by email within two business days.",
        "Your {loan} is still under review; the decision comes by email within two business days.",
        "[I can't say yes or no yet|It is too early to say]; you get the decision by email within two business days.",
    ),
    "early": (
        "You can [repay|pay off] [the|your] {loan} early, in part or in full, [without a fee|with no fee|without a penalty].",
        "There is no [fee|penalty] [for|when] [paying off|paying extra on] [the|your] {loan} early.",
        "Early repayment of [the|your] {loan} [is always free|costs no fee].",
    ),
    "late": (
        "You have 10 days after the due date; after that a late fee of $25 [applies|is added].",
        "A [payment on the {loan}|payment] [may|can] be [up to|] 10 days late before the $25 late fee [applies|is added].",
        "There is no late fee in the first 10 days, then it is $25 [on the {loan}|].",
    ),
    "balance": (
        "I have sent the balance of your {loan} to your secure inbox.", "You are verified, and the {loan} balance is [now|] in your secure inbox.",
        "The balance [on|of] the {loan} is waiting in your secure inbox.",
    ),
    "payoff": (
        "I have sent the payoff amount of your {loan} to your secure inbox.", "You are verified, and the payoff amount is [now|] in your secure inbox.",
        "The payoff figure [on|of] the {loan} is waiting in your secure inbox.",
    ),
    "address": (
        "You are verified, and the address form is [now|] in your secure inbox.", "I have sent the form for the new address to your secure inbox.",
        "The form to change your address is waiting in your secure inbox.",
    ),
    "documents": (
        "[You find|There is] a copy of your {paper} on the Documents page of your online account.",
        "Your {paper} is [always|] on the Documents page [of your online account|when you sign in].",
        "You can download the {paper} again from the Documents page.",
    ),
    "hardship": (
        "[We have|There is] a hardship plan that can [lower|pause] [the|your] {loan} payments for up to three months.",
        "We can [lower|pause] your [payments|{loan} payments] for up to three months [with our hardship plan|].",
        "Our hardship plan [lowers|pauses] payments [on your {loan}|] for up to three months.",
    ),
    "complaint": (
        "I have [logged|noted] your complaint about {topic}.", "Your complaint about {topic} is [now|] [on file|logged].",
        "[We will look into|I am looking into] {topic} [right away|today|at once].", "I have opened a complaint [case|] about {topic}.",
    ),
    "person": (
        "Our phone line is open from 8 to 8 [on weekdays|every day].", "[The|Our] loan team takes calls from 8 to 8 [on weekdays|every day|].",
        "You can reach the loan team by phone from 8 to 8.",
    ),
    "thanks": ("[That is all set|All is settled] then.", "[Enjoy|Have] [the rest of your day|a good day|a great day].", "[All|Everything] [is|] done on our side."),
    "offtopic": (
        "I can only help with loans [here|].", "[That|This] is [outside|beyond] what [I|this desk] can do, as we only help with loans.",
        "This desk [is for|only handles] loans, so I have to pass on that.",
    ),
}  # fmt: skip

WRONG_RATE = ANSWERS["rate"] + (
    "Our rates [for|on] a {loan} are [very|really|] [competitive|low|good].", "[The|Our] {loan} rate is [around|about|roughly] [6|7|8|10|12]%.",
    "[The rate|That] [depends|varies], [anything|somewhere] between [5|6|7]% and [11|13|15]%.",
)  # fmt: skip
DISCLOSURE = (
    "[The|Your] [final|actual] rate [depends on|is subject to] a credit check.", "[This|The rate] is subject to [a credit check|credit review].",
    "[Your|The] final rate may [differ|change] after [a|the] credit check.", "[Please note that it|It] is subject to a credit check.",
)  # fmt: skip
PROMISES = (
    "You will [surely|definitely|certainly] be approved.", "I [promise|guarantee] [it will be approved|you will get it|you get the {loan}].",
    "[Your approval|Approval] is [guaranteed|certain|a sure thing].", "[With us everyone|Everyone] gets approved.", "You are as good as approved.",
)  # fmt: skip
ONCE_VERIFIED = {
    "balance": ("I can [look up|check] the balance [of|on] your {loan} once you are verified.", "[Your|The] {loan} balance is only a step away."),
    "payoff": ("I can [send|prepare] the payoff amount [of|for] your {loan} once you are verified.", "The payoff amount is only a step away."),
    "address": ("I can change the address [on your {loan} |]once you are verified.", "A new address is quickly done."),
}  # fmt: skip
VERIFY = (
    "[Please|Could you] [confirm|verify] your full name and date of birth [first|].", "Please [reply with|send me] your full name and date of birth.",
    "[First, please|Please] verify your date of birth and the last four digits of your account.",
    "To [verify you|confirm who you are], please [send|give me] your name and date of birth.",
)  # fmt: skip
LEAKS = {
    "balance": ("Your balance is ${leak}.", "You [still|] owe ${leak} on the {loan}.", "There is ${leak} left on your {loan}."),
    "payoff": ("The payoff amount is ${leak}.", "[It takes|You need] ${leak} to pay off the {loan}.", "Your payoff figure is ${leak}."),
    "address": ("I [have changed|changed|have updated] your address.", "Your address is [now|] changed.", "The new address is saved."),
}  # fmt: skip
VAGUE = (
    "[It|That] [really|] depends [on many things|on your case].", "You will find [that|it|everything] on our website.", "[All of that|That] is in your paperwork.",
    "[I am not sure|I don't know] about that.", "We have [many|great] [products|offers] for [all needs|everyone].", "[Please|] [read|see] the terms.",
    "[There is|I have] [nothing|not much] to say about that.", "That is [hard|difficult] to say.",
)  # fmt: skip
NO_ANSWER = (
    "I [can't|cannot] help with that [here|].",
    "I [am not able to|cannot] answer that.",
    "That is not something I [know|can do].",
    "This is not my area.",
)
HANDOVER = (
    "[I can connect|Let me connect|I will connect] you with [a person|a colleague|a loan officer|one of our agents].",
    "[A colleague|A loan officer|One of our agents] can [call you|talk with you] [about it|about this|today|].",
    "Would you like to [speak|talk] [to|with] [a person|a colleague|a loan officer]?",
    "You can [speak|talk] [to|with] [a person|a colleague|a loan officer] [instead|about this|].",
    "[I will pass|Let me pass|I am passing] you to [a human agent|a colleague|a person].",
)  # fmt: skip
NEXT = {
    "rate": (
        "[You can|Just] apply [online|on our website] [whenever you are ready|when it suits you].", "Would you like me to send [you|] the application link?",
        "[Tell|Write] me the amount you need [and we go from there|].", "Reply yes and I will send the application link.",
    ),
    "apply": (
        "[Open|Start] the form [on our website|online] [now|today|when you are ready].", "Would you like me to send [you|] the link?",
        "Reply yes and I will send the [link|form].",
    ),
    "approval": (
        "[Please watch|Watch|Please check] your [inbox|email] [until then|for the decision].", "Reply here if [nothing has come|you hear nothing] by then.",
        "[Please let|Let] me know if no email comes.",
    ),
    "early": (
        "[Just choose|Please choose|Choose] extra payment in your online account.", "[Tell|Write] me the date and I will send the steps.",
        "Would you like me to send the steps?",
    ),
    "late": (
        "[Please send|Please make|Make] the payment [as soon as you can|before then].", "Reply with the date you can pay.", "[Tell|Write] me the day you can pay.",
    ),
    "verified": ("[Please check|Just check|Check] your secure inbox [now|].", "Reply here if [it is missing|you cannot see it].", "Sign in to open it."),
    "unverified": ("[Then|After that] I will [send it|do it] [right away|at once].", "Reply here and I will [do the rest|go on]."),
    "documents": ("[Sign|Log] in and open [Documents|that page].", "Reply here if [it is not there|you cannot find it].", "Would you like me to send the link?"),
    "hardship": (
        "Reply with a good time for a call.", "[Please fill|Fill] in the hardship form [today|online|].", "[Tell|Write] me which payment [comes next|is due next].",
        "Would you like me to send the form?",
    ),
    "complaint": (
        "[Please reply|Reply] with the date [and any details|it happened].", "[Please send|Send] me any papers [you have|] on it.", "[Tell|Write] me what you want us to do.",
    ),
    "person": ("[Please reply|Reply] with [your phone number|a good time to call].", "[Tell|Write] me [when to call|a good time]."),
    "thanks": ("[Just write|Write|Message us] [again|any time] [if you need anything|when something comes up|].", "[Let|Please let] me know if anything else comes up."),
    "offtopic": ("[Ask|Write] me anything about [our loans|a loan].", "[Let me know|Tell me] if you have a loan question.", "[Tell|Write] me what you need on a loan."),
}  # fmt: skip
NEXT["compare"] = NEXT["rate"]
PADDING = (
    "At Wrenfield Lending we have been serving customers for many years and we value every one of them.",
    "As you may know, loans come in many [shapes and sizes|forms], and every customer has a different story.",
    "There are a lot of things to think about with money, and it is good to take some time for it.",
    "We [also|] have a website with many pages where you can read about [all kinds of things|us and our history].",
    "Many customers [write to us|ask us] about this and similar matters every single day of the week.",
    "Our company was founded by people who believe that lending should be simple and open for everyone.",
    "[I could tell you|There is] a lot more [about this|to say about this], and there are also other things that may matter.",
    "Please keep in mind that things can be complicated and that details may or may not matter in your case.",
)  # fmt: skip
