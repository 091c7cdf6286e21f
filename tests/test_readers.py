"""Readers against the owners' own names. Audio is a tone; names, folders and label lines are real, and each block says where they were
read (repository@commit path) and what in it is made up, because the owners' label files are not public or to test a fault."""
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from ser_nb.data import readers
from ser_nb.data.corpus import EMOTIONS, GENDERS, Corpus
from ser_nb.data.readers import GENERIC, LAYOUTS, READERS, folder, four_classes, load_corpus, named_folder

SECONDS = {"PaulaScher_2008P": 2., "AimeeMullins_2009P": 60., "AlGore_2009": 45., "JamesCameron_2010": 45., "AaronHuey_2010X": 530., "XDRTB_2008": 95.}


def tone(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    seconds = SECONDS.get(path.stem, .2)
    rate = 16000 if seconds < 1 else 1000
    kind = {".sph": "NIST"}.get(path.suffix.lower())
    soundfile.write(path, .1*np.sin(.3*np.arange(int(seconds*rate))), rate, format=kind, subtype="PCM_16" if kind else None)


def tree(root, files, texts=()):
    for file in files: tone(root/file)
    for file, text in dict(texts).items():
        (root/file).parent.mkdir(parents=True, exist_ok=True)
        (root/file).write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


# corpus -> (text files, {file: (speaker, gender, emotion, session, sentence, language)}, {file in problems: words of its reason})
CASES = {}

# CXianRen/AMST Doc/dataset/IEMOCAP.md (the block of Ses01F_impro05_F019, folders, counts per label); liggest/clacl@1547068 data/ER_sub/csv/gen.py
# (Ses01F_impro01_F007). The other lines of Ses01F_impro01 and that of Ses02M_script01_1 are quoted as examples in many public loaders. Names and
# labels of Session5: emo-box/EmoBox@bb22000 data/iemocap/iemocap.jsonl, Ses05M_script03_2_M042 in public decoders of dialogs; times and ratings of
# these are made up. Ses03F_impro06_FXX1 is a real file; it has no line here.
IEMOCAP = {
    "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt": """% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]

[6.2901 - 8.2357]\tSes01F_impro01_F000\tneu\t[2.5000, 2.5000, 2.5000]
C-E2:\tNeutral;\t()
A-E3:\tval 3; act 2; dom 2;\t()

[10.0100 - 11.3925]\tSes01F_impro01_F001\tneu\t[2.5000, 2.5000, 2.5000]
[19.2900 - 20.7875]\tSes01F_impro01_F003\txxx\t[2.5000, 3.0000, 3.0000]
[46.5800 - 52.1900]\tSes01F_impro01_F007\tfru\t[2.5000, 3.5000, 3.5000]
""",
    "Session1/dialog/EmoEvaluation/Ses01F_impro05.txt": "[140.2250 - 145.6000]\tSes01F_impro05_F019\tang\t[1.5000, 4.0000, 4.5000]\r\nC-E1:\tAnger;\t()\r\nA-E3:\tval 2; act 4; dom  4;\t()\r\n",
    "Session1/dialog/wav/Ses01F_impro01.wav": b"a whole dialog: no utterance, and no problem either",
    "Session1/dialog/EmoEvaluation/._Ses01F_impro05.txt": b"\x00\x05\x16\x07",
    "Session1/dialog/EmoEvaluation/Categorical/Ses01F_impro05_e1_cat.txt": "Ses01F_impro05_F019 :Happiness; ()\n",
    "Session2/dialog/EmoEvaluation/Ses02M_script01_1.txt": "[5.2300 - 8.7100]\tSes02M_script01_1_F000\txxx\t[3.0000, 3.0000, 3.0000]\n",
    "Session5/dialog/EmoEvaluation/Ses05F_impro07.txt": "[0.0000 - 6.2834]\tSes05F_impro07_M036\texc\t[3.0000, 3.0000, 3.0000]\n",
    "Session5/dialog/EmoEvaluation/Ses05M_script01_1b.txt": "[0.0000 - 5.7537]\tSes05M_script01_1b_F000\tsad\t[3.0000, 3.0000, 3.0000]\n[0.0000 - 4.7799]\tSes05M_script01_1b_M041\tang\t[3.0000, 3.0000, 3.0000]\n",
    "Session5/dialog/EmoEvaluation/Ses05M_script03_2.txt": "[0.0000 - 1.0000]\tSes05M_script03_2_M042\tang\t[3.0000, 3.0000, 3.0000]\n",
}
S = "Session{0}/sentences/wav/{1}/{1}_{2}.wav".format
CASES["iemocap"] = (IEMOCAP, {
    S(1, "Ses01F_impro01", "F000"): ("Ses01F", "female", "neutral", "Session1", "", "en"),
    S(1, "Ses01F_impro01", "F001"): ("Ses01F", "female", "neutral", "Session1", "", "en"),
    S(1, "Ses01F_impro01", "F003"): ("Ses01F", "female", "", "Session1", "", "en"),
    S(1, "Ses01F_impro01", "F007"): ("Ses01F", "female", "frustrated", "Session1", "", "en"),
    S(1, "Ses01F_impro05", "F019"): ("Ses01F", "female", "angry", "Session1", "", "en"),
    S(2, "Ses02M_script01_1", "F000"): ("Ses02F", "female", "", "Session2", "", "en"),
    S(5, "Ses05F_impro07", "M036"): ("Ses05M", "male", "excited", "Session5", "", "en"),
    S(5, "Ses05M_script01_1b", "F000"): ("Ses05F", "female", "sad", "Session5", "", "en"),
    S(5, "Ses05M_script01_1b", "M041"): ("Ses05M", "male", "angry", "Session5", "", "en"),
}, {
    "Ses05M_script03_2_M042": "there is no such audio file",
    S(3, "Ses03F_impro06", "FXX1"): "no line of EmoEvaluation names it",
})

# Lines and folders: Strong-AI-Lab/emotion@cffc32d datasets/MSP-IMPROV/process.py; AIM3-RUC/MEmoBert@9ddf456 preprocess/msp/arrange_data.py. Names and
# labels: AIM3-RUC/MEmoBert@9ddf456 preprocess/msp/no_face_check.txt, gogyzzz/localatt_emorecog README.md (S01A-F01-P), Reem-Alatrash/SER-Parallel-CNN
# README.md (S08A-F05-S-FM02); the ratings of S01A-F02-R-FF01 are quoted in a public parser's example. Made up: the other ratings, the NaN, and
# the labels X of S01H-F06-S-MF01 and O of S08H-M05-S-MF14.
M = "session{1}/{0}/{3}/MSP-IMPROV-{0}-{2}{1:02d}-{3}-{4}.wav".format
def _msp(clip, label, ratings="A:2.000000; V:3.000000; D:3.000000 ; N:3.000000;"): return f"UTD-IMPROV-{clip}.avi; {label}; {ratings}\n user000001; Neutral; Calm; A:2; V:3; D:3; N:3;\n\n"
CASES["msp_improv"] = ({"Evalution.txt": _msp("S01A-F02-R-FF01", "A", "A:2.333333; V:3.333333; D:3.000000 ; N:3.666667;") + _msp("S01A-F01-P-FM01", "N") + _msp("S01A-F01-P-FM02", "H")
    + _msp("S08A-F05-S-FM02", "H") + _msp("S01A-M02-S-FM02", "N") + _msp("S02H-M04-S-FM05", "A") + _msp("S02S-F04-S-MF02", "S") + _msp("S11H-F06-S-MF06", "A")
    + _msp("S15A-M02-S-MF04", "A", "A:4.000000; V:1.000000; D:NaN ; N:NaN;") + _msp("S01H-F06-S-MF01", "X") + _msp("S08H-M05-S-MF14", "O") + _msp("S14H-F06-S-MF04", "H")}, {
    M("S01A", 2, "F", "R", "FF01"): ("F02", "female", "angry", "Session2", "S01", "en"),
    M("S01A", 1, "F", "P", "FM01"): ("F01", "female", "neutral", "Session1", "", "en"),
    M("S01A", 1, "F", "P", "FM02"): ("F01", "female", "happy", "Session1", "", "en"),
    M("S08A", 5, "F", "S", "FM02"): ("F05", "female", "happy", "Session5", "", "en"),
    M("S01A", 2, "M", "S", "FM02"): ("M02", "male", "neutral", "Session2", "", "en"),
    M("S02H", 4, "M", "S", "FM05"): ("M04", "male", "angry", "Session4", "", "en"),
    M("S02S", 4, "F", "S", "MF02"): ("F04", "female", "sad", "Session4", "", "en"),
    M("S11H", 6, "F", "S", "MF06"): ("F06", "female", "angry", "Session6", "", "en"),
    M("S15A", 2, "M", "S", "MF04"): ("M02", "male", "angry", "Session2", "", "en"),
    M("S01H", 6, "F", "S", "MF01"): ("F06", "female", "", "Session6", "", "en"),
    M("S08H", 5, "M", "S", "MF14"): ("M05", "male", "other", "Session5", "", "en"),
}, {"MSP-IMPROV-S14H-F06-S-MF04": "there is no such audio file", M("S13N", 2, "F", "S", "MF02"): "no line of the evaluation file"})

# JamesCameron: mcfletch/OpenDeep@709bc51 opendeep/data/tests/test_stm.py. AaronHuey and XDRTB (train), AlGore (dev, <F0_M>), AimeeMullins (test): quoted
# as examples in public STM readers (RETURNN's and others). PaulaScher: the card of
# https://huggingface.co/datasets/LIUM/tedlium; the other names: https://huggingface.co/datasets/distil-whisper/tedlium-long-form. Texts are cut short.
# Made up: the second, broken line of XDRTB and the only one of GaryFlake.
CASES["tedlium2"] = ({
    "train/stm/AaronHuey_2010X.stm": "AaronHuey_2010X 1 AaronHuey_2010X 16.13 24.16 <o,f0,female> i'm here today to show my photographs of the lakota\nAaronHuey_2010X 1 AaronHuey_2010X 520.18 522.81 <o,f0,female> when i saw them with eyes still young\n",
    "train/stm/XDRTB_2008.stm": "XDRTB_2008 1 XDRTB_2008 88.55 89.57 <o,f0,male> from the halls of\nXDRTB_2008 1 XDRTB_2008\n",
    "dev/stm/AlGore_2009.stm": ";; LABEL\nAlGore_2009 1 Al_Gore 23.46 40.05 <F0_M> but this understates the seriousness of this particular problem\n",
    "test/stm/AimeeMullins_2009P.stm": "AimeeMullins_2009P 1 inter_segment_gap 0 17.82 <o,,unknown> ignore_time_segment_in_scoring\nAimeeMullins_2009P 1 AimeeMullins 17.82 28.81 <o,f0,female> i 'd like to share ...\n",
    "test/stm/JamesCameron_2010.stm": "JamesCameron_2010 1 inter_segment_gap 0 16.75 <o,,unknown> ignore_time_segment_in_scoring\nJamesCameron_2010 1 JamesCameron 16.75 27.96 <o,f0,male> i grew up on a steady diet of science fiction\nJamesCameron_2010 1 JamesCameron 27.96 41.81 <o,f0,male> science fiction book which took my mind to other worlds\n",
    "test/stm/GaryFlake_2010.stm": "GaryFlake_2010 1 GaryFlake 16.06 20.00 <NA> a segment whose talk was not copied\n",
}, {
    "train/sph/AaronHuey_2010X.sph": [("AaronHuey_2010X", "female", "", "AaronHuey_2010X", "", "en", 16.13, 24.16), ("AaronHuey_2010X", "female", "", "AaronHuey_2010X", "", "en", 520.18, 522.81)],
    "train/sph/XDRTB_2008.sph": [("XDRTB_2008", "male", "", "XDRTB_2008", "", "en", 88.55, 89.57)],
    "dev/sph/AlGore_2009.sph": [("Al_Gore", "male", "", "AlGore_2009", "", "en", 23.46, 40.05)],
    "test/sph/AimeeMullins_2009P.sph": [("AimeeMullins", "female", "", "AimeeMullins_2009P", "", "en", 17.82, 28.81)],
    "test/sph/JamesCameron_2010.sph": [("JamesCameron", "male", "", "JamesCameron_2010", "", "en", 16.75, 27.96), ("JamesCameron", "male", "", "JamesCameron_2010", "", "en", 27.96, 41.81)],
}, {"GaryFlake_2010": "there is no such audio file", "train/sph/PaulaScher_2008P.sph": "no STM file", "train/stm/XDRTB_2008.stm": "line 2 is not talk, channel",
    **{f"test/sph/{t}.sph": "no STM file" for t in ("EricMead_2009P", "MichaelSpecter_2010", "JaneMcGonigal_2010", "DanBarber_2010_S103")}})

# emo-box/EmoBox@fdc57b0 data/emodb/fold_1/emodb_test_fold1.jsonl; codes and sexes: http://emodb.bilderbar.info/index-1280.html
CASES["emodb"] = ({}, {f"wav/{stem}.wav": (stem[:2], gender, emotion, "", stem[2:5], "de") for stem, gender, emotion in (
    ("03a01Fa", "male", "happy"), ("03a02Wb", "male", "angry"), ("03a02Wc", "male", "angry"), ("08b09Ab", "female", "fear"), ("09b03Fd", "female", "happy"),
    ("10a07La", "male", "boredom"), ("11b10Ae", "male", "fear"), ("12b02Wd", "male", "angry"), ("13b10Ec", "female", "disgust"), ("14a05Wa", "female", "angry"),
    ("15a07Ld", "male", "boredom"), ("16b10Eb", "female", "disgust"), ("08a04Nc", "female", "neutral"), ("10a07Ta", "male", "sad"))}, {"wav/03a01Xa.wav": "'X' is none of W, L"})

# metadata's columns: felixbur/nkululeko@5fc59b1 data/emozionalmente/create.py and the Zenodo package 12616095; names, actors and emotions:
# emo-box/EmoBox@fdc57b0 data/emozionalmente/data.seg.wrd.stm. Made up: sentences and sexes, and the actor of 1614410003865.
_EMOZ = [("1613655062436", "3111cf7b7ed6fc33e48bfa682fc101fcb6f6d842421d031cb7c79bdec5a1a86e", "neutrality", "neutral"), ("1619253465089", "3a8927e93a0a145def797ce89c3ab0ab7073604b4398783a9678d9879804b4b1", "sadness", "sad"),
         ("1613063132088", "322ad29ca10bc60cfff594bdaf0047340c284fb1bcb15c37cf7256b221cebb30", "joy", "happy"), ("1613478518982", "e61c967ecc0fae999d10c15d02651ffe305abe702e3a0387ba4d3fb5cddfb7c3", "anger", "angry"),
         ("1614016987617", "01de3a316dafa26a6e15d40720bc94e0706da6e0831274ea04dc25bccf87de9b", "disgust", "disgust"), ("1613495756915", "986219b90f2d2050ff9109e870ca007d43c5e5224dec5871663d331aa09b1d37", "neutrality", "neutral"),
         ("1616073473408", "be17d315978520bdbc4628efef30c6375363a7900532239f89511ccdf85a10cb", "neutrality", "neutral"), ("1614023408999", "a67c15fc95e0cf1fe2c20da7b35721626162508a7f180cd025b09be79229c782", "surprise", "surprise"),
         ("1614274858834", "5dfd46e27a5e3e8e06fcb92817b0955f7fd28048f5003bfd4e5be8e67bf417db", "fear", "fear"), ("1616504909446", "3f9b6ed1d2adc407ef668b8c89a89fe022f2233d94ce943294c6ed030d18f2ff", "joy", "happy"),
         ("1615388526953", "12b74feef88433eff5ef0290374cd7c3fae8fedab6aaff94d765c10af575ff33", "disgust", "disgust")]
_SEXES = ["female", "male", "other"]
CASES["emozionalmente"] = ({
    "metadata/samples.csv": "\ufefffile_name,sentence,sentence_language,actor,emotion_expressed\n" + "".join(f'{n}.wav,"Oggi piove, sì.",it,{a},{e}\n' for n, a, e, _ in _EMOZ) + "1614410003865.wav,Ciao.,it,nobody,anger\n",
    "metadata/users.csv": "username,gender,age,mother_tongue\n" + "".join(f"{a},{_SEXES[i % 3]},30,it\n" for i, (_, a, _, _) in enumerate(_EMOZ)),
    "metadata/split/train.csv": "file_name,sentence,sentence_language,actor,emotion_expressed\n1.wav,x,it,y,joy\n",
}, {f"audio/{n}.wav": (a, _SEXES[i % 3].replace("other", ""), emotion, "", "Oggi piove, sì.", "it") for i, (n, a, _, emotion) in enumerate(_EMOZ)},
    {"1614410003865": "there is no such audio file", "audio/1614097478491.wav": "no row of samples.csv"})

# Names: CheyneyComputerScience/CREMA-D@02f12b3 AudioMP3 and AudioWAV, 1040_ITH_SAD_X.wav among them; VideoDemographics.csv@98df52c
CASES["cremad"] = ({"VideoDemographics.csv": '"ActorID","Age","Sex","Race","Ethnicity"\n1001,51,"Male","Caucasian","Not Hispanic"\n1002,21,"Female","Caucasian","Not Hispanic"\n1003,21,"Female","Caucasian","Not Hispanic"\n1040,42,"Male","Caucasian","Not Hispanic"\n'},
    {f"AudioWAV/{stem}.wav": (stem[:4], gender, emotion, "", stem[5:8], "en") for stem, gender, emotion in (
    ("1001_DFA_ANG_XX", "male", "angry"), ("1001_IEO_DIS_LO", "male", "disgust"), ("1001_IEO_FEA_HI", "male", "fear"), ("1001_ITS_NEU_XX", "male", "neutral"), ("1001_TSI_SAD_XX", "male", "sad"),
    ("1002_IEO_ANG_MD", "female", "angry"), ("1002_IWW_HAP_XX", "female", "happy"), ("1003_IEO_NEU_XX", "female", "neutral"), ("1003_IEO_SAD_LO", "female", "sad"),
    ("1040_ITH_SAD_X", "male", "sad"), ("1076_MTI_SAD_XX", "", "sad"))}, {"AudioMP3/1001_DFA_ANG_XX.mp3": "a second copy of AudioWAV/1001_DFA_ANG_XX.wav"})

# emo-box/EmoBox@bb22000 data/savee/savee.jsonl (all files in one folder); AudioData/DC/a01.wav is the owners' own layout, tested below
CASES["savee"] = ({}, {f"ALL/{stem}.wav": (stem[:2], "male", emotion, "", stem[3:], "en") for stem, emotion in (
    ("DC_a15", "angry"), ("DC_d01", "disgust"), ("DC_f14", "fear"), ("DC_h08", "happy"), ("DC_n11", "neutral"), ("DC_sa14", "sad"), ("DC_su05", "surprise"),
    ("JE_su05", "surprise"), ("JK_n28", "neutral"), ("JK_sa13", "sad"), ("KL_n22", "neutral"), ("KL_f08", "fear"), ("KL_a10", "angry"))}, {"ALL/AB_a01.wav": "does not fit"})

# emo-box/EmoBox@fdc57b0 data/tess/tess.jsonl; the folders and the odd OA_bite_neutral as in the package at https://doi.org/10.5683/SP2/E8H2MF and its
# mirror https://www.kaggle.com/datasets/ejlok1/toronto-emotional-speech-set-tess, which holds itself a second time
T = "TESS Toronto emotional speech set data/{}/{}.wav".format
CASES["tess"] = ({}, {T(where, stem): (speaker, "female", emotion, "", word, "en") for where, stem, speaker, word, emotion in (
    ("OAF_angry", "OAF_back_angry", "OAF", "back", "angry"), ("OAF_disgust", "OAF_kick_disgust", "OAF", "kick", "disgust"), ("OAF_Fear", "OAF_lid_fear", "OAF", "lid", "fear"),
    ("OAF_happy", "OAF_haze_happy", "OAF", "haze", "happy"), ("OAF_neutral", "OA_bite_neutral", "OAF", "bite", "neutral"), ("OAF_neutral", "OAF_south_neutral", "OAF", "south", "neutral"),
    ("OAF_Pleasant_surprise", "OAF_nice_ps", "OAF", "nice", "surprise"), ("OAF_Sad", "OAF_dime_sad", "OAF", "dime", "sad"), ("YAF_pleasant_surprised", "YAF_fail_ps", "YAF", "fail", "surprise"),
    ("YAF_fear", "YAF_tire_fear", "YAF", "tire", "fear"), ("YAF_sad", "YAF_king_sad", "YAF", "king", "sad"))},
    {"TESS Toronto emotional speech set data/TESS Toronto emotional speech set data/YAF_sad/YAF_king_sad.wav": "a second copy of"})

# HLTSingapore/Emotional-Speech-Data README.md (download); folders with partitions (0016/Neutral/evaluation/0016_000019, 0016_000699, 0016_001394, 0013_000064)
# and without (0011/Angry/0011_000351 to 0011_000700) as quoted in public loaders; lines: the five states of one
# Mandarin sentence and 0011_000351, quoted likewise. Sexes: the read-me shipped with the audio. Made up: the line of 0011_000352, without tabs.
CASES["esd"] = ({
    "ESD/0001/0001.txt": "".join(f"0001_{n}\t打远一看，它们的确很是美丽，\t{e}\n" for n, e in (("000001", "中立"), ("000351", "生气"), ("000701", "快乐"), ("001051", "伤心"), ("001401", "惊喜"))).encode("gb18030"),
    "ESD/0011/0011.txt": "0011_000351\tThe nine the eggs, I keep.\tAngry\r\n0011_000352 no tabs here\r\n",
}, {f"ESD/{where}": row for where, row in {
    "0001/Neutral/0001_000001.wav": ("0001", "female", "neutral", "", "1", "zh"), "0001/Angry/0001_000351.wav": ("0001", "female", "angry", "", "1", "zh"),
    "0001/Happy/0001_000701.wav": ("0001", "female", "happy", "", "1", "zh"), "0001/Sad/0001_001051.wav": ("0001", "female", "sad", "", "1", "zh"),
    "0001/Surprise/0001_001401.wav": ("0001", "female", "surprise", "", "1", "zh"), "0011/Angry/0011_000351.wav": ("0011", "male", "angry", "", "1", "en"),
    "0011/Angry/0011_000352.wav": ("0011", "male", "angry", "", "2", "en"), "0011/Angry/0011_000700.wav": ("0011", "male", "angry", "", "350", "en"),
    "0013/Neutral/train/0013_000064.wav": ("0013", "male", "neutral", "", "64", "en"), "0016/Neutral/evaluation/0016_000019.wav": ("0016", "female", "neutral", "", "19", "en"),
    "0016/Angry/train/0016_000699.wav": ("0016", "female", "angry", "", "349", "en"), "0016/Sad/train/0016_001394.wav": ("0016", "female", "sad", "", "344", "en")}.items()},
    {"ESD/Emotion Speech Dataset/0016/Angry/train/0016_000699.wav": "a second copy of ESD/0016/Angry/train", "ESD/0011/Angry/0012_000351.wav": "does not fit"})

# Speech and song names of the owners' archives Audio_Speech_Actors_01-24 and Audio_Song_Actors_01-24: https://zenodo.org/records/1188976
R = "Audio_Speech_Actors_01-24/Actor_{0}/03-01-{1}-{0}.wav".format
CASES["ravdess"] = ({}, {R(a, f): (a, gender, emotion, "", "st{2}_int{1}_rep{3}".format(*f.split("-")), "en") for a, f, gender, emotion in (
    ("01", "01-01-01-01", "male", "neutral"), ("01", "02-01-01-01", "male", "calm"), ("01", "03-01-01-01", "male", "happy"), ("01", "04-02-02-02", "male", "sad"), ("12", "05-01-02-01", "female", "angry"),
    ("12", "06-01-02-01", "female", "fear"), ("24", "07-02-01-02", "female", "disgust"), ("24", "08-02-02-02", "female", "surprise"), ("07", "03-01-01-01", "male", "happy"), ("07", "03-01-02-01", "male", "happy"))},
    {"Audio_Song_Actors_01-24/Actor_01/03-02-01-01-01-01-01.wav": "but song", "Audio_Song_Actors_01-24/Actor_12/03-02-06-01-02-01-12.wav": "but song",
     "Audio_Speech_Actors_01-24/audio_speech_actors_01-24/Actor_01/03-01-01-01-01-01-01.wav": "a second copy of", "Audio_Speech_Actors_01-24/Actor_01/notes.wav": "does not fit"})

# Names of http://www.openslr.org/12, nested as there; SPEAKERS.TXT: the lines of 84 and 174 as quoted in a public corpus tool's tests
L = "LibriSpeech/{3}/{0}/{1}/{0}-{1}-{2}.flac".format
_LIBRI = ["84-121123-0000", "103-1240-0000", "1034-121119-0000", "1040-133433-0000", "1069-133699-0000", "1081-125237-0000", "1088-129236-0000", "1098-133695-0000", "1116-132847-0000", "118-121721-0000"]
CASES["librispeech"] = ({"LibriSpeech/SPEAKERS.TXT": ";ID  |SEX| SUBSET           |MINUTES| NAME\n84   | F | dev-clean        | 8.02  | Christie Nowak\n174  | M | dev-clean        | 8.04  | Peter Eastman\n"},
    {L(*u.split("-"), "dev-clean" if u.startswith("84-") else "train-clean-100"): (u.split("-")[0], "female" if u.startswith("84-") else "", "", "", u, "en") for u in _LIBRI}, {"LibriSpeech/intro.flac": "does not fit"})

# Rows of data.tsv (stray spaces, .wav) of https://huggingface.co/datasets/amu-cai/nEMO; IC0_surprised_1 and IC0_fear_1 follow its read-me's spelling. Made up:
# the text of WR0_sadness_90 left empty, and the ages.
_NEMO = [("WR0_happiness_86", "happiness", "Myślmy pozytywnie i skupmy się na dobrych rzeczach w naszym życiu.", "happy", "male"), ("IC0_sadness_21", "sadness", "Egipcjanie uważali ibisy za święte.", "sad", "female"),
         ("IC0_anger_1", "anger", "Lubię czytać przed snem.", "angry", "female"), ("WR0_happiness_45", "happiness", "Postanowiłem wynająć samochód na wakacje.", "happy", "male"),
         ("IC0_surprised_1", "surprised", "Lubię czytać przed snem.", "surprise", "female"), ("IC0_fear_1", "fear", "Lubię czytać przed snem.", "fear", "female"), ("IC0_neutral_1", "neutral", "Lubię czytać przed snem.", "neutral", "female"),
         ("WR0_anger_1", "anger", "Lubię czytać przed snem.", "angry", "male"), ("WR0_sadness_90", "sadness", "", "sad", "male"), ("WR0_happiness_79", "happiness", "Mleko jest źródłem wapnia i innych składników odżywczych.", "happy", "male")]
CASES["nemo"] = ({"data.tsv": "file_id\temotion\traw_text\tnormalized_text\tspeaker_id\tgender\tage\n" + "".join(f"{s}.wav\t{e}\t{t}\t{t.lower()}\t        {s[:3]}\t{g}\t23\n" for s, e, t, _, g in _NEMO) + "IC0_anger_2.wav\tanger\t\t\tIC0\tfemale\t28\n"},
    {f"samples/{s}.flac": (s[:3], g, emotion, "", s.rsplit("_")[-1], "pl") for s, _, _, emotion, g in _NEMO}, {"IC0_anger_2": "there is no such audio file", "samples/IC0_anger_3.flac": "no row of data.tsv"})

# Both are checked in full below; here the outer folder of the owners' zip, WAV, and a name that does not belong.
# EMOVO: http://voice.fub.it/activities/corpora/emovo; URDU: https://github.com/siddiquelatif/URDU-Dataset
CASES["emovo"] = ({}, {f"EMOVO/{s.split('-')[1]}/{s}.wav": (s.split("-")[1], "female" if "-f" in s else "male", e, "", s.split("-")[2], "it") for s, e in (("dis-f1-b1", "disgust"), ("gio-f1-b2", "happy"), ("neu-f1-d2", "neutral"), ("pau-f1-l3", "fear"),
    ("rab-f1-l4", "angry"), ("sor-f1-n4", "surprise"), ("tri-f1-n5", "sad"), ("neu-f3-n5", "neutral"), ("pau-m1-b1", "fear"), ("rab-m2-b3", "angry"), ("dis-m3-b2", "disgust"))}, {"EMOVO/documents/intro.wav": "does not fit"})
CASES["urdu"] = ({}, {f"{w}/{s}.wav": (s.split("_")[0], "male" if s[1] == "M" else "female", w.lower(), "", s.split("_")[1], "ur") for w, s in (("Angry", "SM1_F10_A010"), ("Angry", "SM1_F11_A011"), ("Angry", "SM1_F12_A012"), ("Angry", "SM2_F9_A031"), ("Happy", "SM7_F9_H081"),
    ("Happy", "SF1_F10_H010"), ("Happy", "SF1_F1_H01"), ("Sad", "SF10_F1_S01"), ("Sad", "SF11_F2_S04"), ("Sad", "SF11_F3_S05"))}, {"Angry/SM1_F10.wav": "does not fit"})


def by_file(corpus, columns=("speaker", "gender", "emotion", "session", "sentence", "language")):
    return {f: [tuple(r) for r in g[list(columns)].to_numpy(object)] for f, g in corpus.table.groupby("file")}


@pytest.mark.parametrize("name", CASES)
def test_layout_of_the_owners(name, tmp_path):
    texts, rows, problems = CASES[name]
    audio = [f for f in problems if Path(f).suffix in (".wav", ".flac", ".mp3", ".sph")]
    corpus = READERS[name](tree(tmp_path, [*rows, *audio], texts))
    segments = name == "tedlium2"
    got = by_file(corpus, ("speaker", "gender", "emotion", "session", "sentence", "language") + (("start", "end") if segments else ()))
    wanted = {f: r if segments else [r] for f, r in rows.items()}
    assert got == wanted
    named = dict(zip(corpus.problems.file, corpus.problems.reason))
    assert all(problems[f] in named.get(f, "") for f in problems), named
    assert len(named) == len(problems) and len(corpus.problems) == len(problems), named
    assert set(corpus.table.emotion) <= {*EMOTIONS, ""} and set(corpus.table.gender) <= {*GENDERS, ""}
    assert corpus.name == name and set(corpus.table.language.str.len()) == {2}


@pytest.mark.parametrize("name", CASES)
def test_every_case_uses_ten_real_names(name):
    texts, rows, problems = CASES[name]
    assert len(rows) + len(problems) >= 10


@pytest.mark.parametrize("name", CASES)
def test_any_extension_and_companions(name, tmp_path):
    """Upper-case and other extensions, macOS' companions, spaces and umlauts in the way: the same rows."""
    texts, rows, _ = CASES[name]
    root = tmp_path/"ein Ordner mit Ü und 空"
    tree(root, [str(Path(f).with_suffix(".FLAC")) for f in rows], texts)
    for f in (*rows, *texts): (root/f).with_name("._" + Path(f).name).write_bytes(b"\x00\x05\x16\x07")
    corpus = READERS[name](root)
    assert {f.rsplit(".", 1)[0] for f in corpus.table.file} == {f.rsplit(".", 1)[0] for f in rows}
    assert not corpus.problems.file.str.contains(r"\._").any()
    assert corpus.path(0).is_file()


@pytest.mark.parametrize("name", CASES)
def test_wrong_folder_says_what_is_expected(name, tmp_path):
    tree(tmp_path, ["a/hello world.wav"])
    with pytest.raises(ValueError) as e: READERS[name](tmp_path)
    assert f"corpus {name!r}" in str(e.value) and LAYOUTS[name] in str(e.value) and "\n" not in str(e.value)
    with pytest.raises(FileNotFoundError, match="no such folder; expected one that holds"): READERS[name](tmp_path/"nowhere")


def test_an_unreadable_file_is_named_too(tmp_path):
    tree(tmp_path, ["wav/03a01Fa.wav"], {"wav/03a02Wb.wav": "not audio", "wav/03a02Wc.wav": b""})
    corpus = readers.emodb(tmp_path)
    assert corpus.table.file.tolist() == ["wav/03a01Fa.wav"] and sorted(corpus.problems.file) == ["wav/03a02Wb.wav", "wav/03a02Wc.wav"]


def test_iemocap_speaker_is_who_speaks_and_ratings_come_along(tmp_path):
    texts, rows, _ = CASES["iemocap"]
    t = readers.iemocap(tree(tmp_path/"IEMOCAP_full_release", rows, texts)).table.set_index("file")
    row = t.loc[S(1, "Ses01F_impro05", "F019")]
    assert (row.valence, row.activation, row.dominance, row.scenario) == (1.5, 4., 4.5, "impro05")
    assert t.loc[S(2, "Ses02M_script01_1", "F000")].speaker == "Ses02F"
    assert t.loc[S(5, "Ses05M_script01_1b", "F000")].scenario == "script01_1b"


def test_msp_improv_ratings_and_scenario(tmp_path):
    texts, rows, _ = CASES["msp_improv"]
    for spelling in ("Evalution.txt", "Evaluation.txt"):
        root = tree(tmp_path/spelling[:-4], rows, {spelling: texts["Evalution.txt"]})
        t = readers.msp_improv(root).table.set_index("file")
        row = t.loc[M("S01A", 2, "F", "R", "FF01")]
        assert (row.activation, row.valence, row.dominance, row.scenario) == (2.333333, 3.333333, 3., "read")
        assert np.isnan(t.loc[M("S15A", 2, "M", "S", "MF04")].dominance)


def test_four_classes_of_iemocap():
    """The published counts per label (CXianRen/AMST Doc/dataset/IEMOCAP.md) give the usual 5531."""
    counts = dict(ang=1103, dis=2, exc=1041, fea=40, fru=1849, hap=595, neu=1708, oth=3, sad=1084, sur=107, xxx=2507)
    emotions = [readers.IEMOCAP_CODES[code] for code, n in counts.items() for _ in range(n)]
    kept = four_classes(Corpus("iemocap", pd.DataFrame(dict(emotion=emotions, duration=1.)), Path(".")))
    assert len(emotions) == 10039 and len(kept) == 5531
    assert kept.table.emotion.value_counts().to_dict() == dict(angry=1103, happy=1636, neutral=1708, sad=1084)


def test_four_classes_on_a_tree(tmp_path):
    texts, rows, _ = CASES["iemocap"]
    kept = four_classes(readers.iemocap(tree(tmp_path, rows, texts)))
    assert kept.table.emotion.value_counts().to_dict() == dict(angry=2, happy=1, neutral=2, sad=1)
    with pytest.raises(ValueError, match="has none of angry, happy, neutral, sad"): four_classes(folder(tree(tmp_path/"f", ["fear/a.wav"])))


def test_savee_as_the_owners_ship_it(tmp_path):
    files = ["AudioData/DC/a01.wav", "AudioData/JE/sa04.wav", "AudioData/JK/a01.wav", "AudioData/KL/su06.wav"]
    corpus = readers.savee(tree(tmp_path, [*files, "AudioData/AudioData/DC/a01.wav"]))
    assert len(corpus) == 4 and corpus.table.speaker.tolist().count("DC") == 1
    assert corpus.problems.reason.str.contains("a second copy").tolist() == [True]


def test_cremad_without_demographics_has_no_gender(tmp_path):
    _, rows, _ = CASES["cremad"]
    assert set(readers.cremad(tree(tmp_path, rows)).table.gender) == {""}


def test_texts_come_along(tmp_path):
    texts, rows, _ = CASES["esd"]
    t = readers.esd(tree(tmp_path/"esd", rows, texts)).table.set_index("file").text
    assert t["ESD/0001/Sad/0001_001051.wav"] == "打远一看，它们的确很是美丽，" and t["ESD/0011/Angry/0011_000351.wav"] == "The nine the eggs, I keep."
    assert t["ESD/0011/Angry/0011_000352.wav"] == "no tabs here" and t["ESD/0016/Sad/train/0016_001394.wav"] == ""
    utf16 = tree(tmp_path/"utf16", ["0011/Angry/0011_000351.wav"], {"0011/0011.txt": "0011_000351\tThe nine the eggs, I keep.\tAngry\n".encode("utf-16")})
    assert readers.esd(utf16).table.text[0] == "The nine the eggs, I keep."
    texts, rows, _ = CASES["nemo"]
    t = readers.nemo(tree(tmp_path/"nemo", rows, texts)).table.set_index("file").text
    assert t["samples/WR0_happiness_86.flac"].startswith("Myślmy pozytywnie") and t["samples/WR0_sadness_90.flac"] == ""


def test_label_tables_without_a_column(tmp_path):
    tree(tmp_path, ["samples/IC0_anger_1.wav"], {"data.tsv": "file_id\temotion\nIC0_anger_1.wav\tanger\n"})
    with pytest.raises(ValueError, match="has no column 'gender'; it has file_id, emotion"): readers.nemo(tmp_path)


def test_an_unknown_label_is_named_and_not_fatal(tmp_path):
    texts, rows, _ = CASES["iemocap"]
    texts = texts | {"Session1/dialog/EmoEvaluation/Ses01F_impro05.txt": texts["Session1/dialog/EmoEvaluation/Ses01F_impro05.txt"].replace("\tang\t", "\tzzz\t")}
    corpus = readers.iemocap(tree(tmp_path, rows, texts))
    assert corpus.problems.reason.str.contains("its label 'zzz' is none of ang, hap").sum() == 1


def test_links_are_followed(tmp_path):
    tree(tmp_path/"disk", ["wav/03a01Fa.wav"])
    (tmp_path/"corpora").mkdir()
    (tmp_path/"corpora"/"emodb").symlink_to(tmp_path/"disk")
    (tmp_path/"both").mkdir()
    (tmp_path/"both"/"wav").symlink_to(tmp_path/"disk"/"wav")
    assert len(readers.emodb(tmp_path/"corpora"/"emodb")) == len(readers.emodb(tmp_path/"both")) == 1


def test_folder_takes_labels_from_its_folders(tmp_path):
    tree(tmp_path, ["Angry/a b.WAV", "joy/train/é.flac", "joy/b.mp3", "loose.wav"])
    corpus = folder(tmp_path, labels={"joy": "happy"})
    assert corpus.table.emotion.tolist() == ["angry", "happy", "happy"] and set(corpus.table.speaker) == {""}
    assert corpus.problems.file.tolist() == ["loose.wav"] and corpus.name == tmp_path.name
    with pytest.raises(ValueError, match="unknown emotion 'joy'.*map it with labels"): folder(tmp_path)
    with pytest.raises(ValueError, match="expected one sub-folder per emotion"): folder(tree(tmp_path/"flat", ["a.wav"]))


def test_names_that_say_emotion_data_set_and_speaker(tmp_path):
    """The convention emotion_dataset_subject_anything (Arezzo and Berretti 2022), in the folder that its scripts ask for."""
    fits = ["anger_EMOVO_f1_b1.wav", "Fearful_EMOVO_f1_l3_x.flac", "surprised_EMODB_03_a.wav", "frustration_EMOVO_m1_d2.WAV"]
    root = tree(tmp_path/"EMOVO"/"EMOVO_wav", [*fits, "gioia_EMOVO_m2_b1.wav", "anger_EMOVO_f1.wav", "intro.wav", "again/anger_EMOVO_f1_b1.wav"], {"._anger_EMOVO_f1_b2.wav": b"\0"})
    for corpus in (named_folder(root), load_corpus("named_folder", root), load_corpus(str(root)), load_corpus(tmp_path/"EMOVO")):
        assert corpus.name == "EMOVO" and set(corpus.table.corpus) == {"EMOVO"}
        assert {Path(f).name: (s, e) for f, s, e in zip(corpus.table.file, corpus.table.speaker, corpus.table.emotion)} == dict(zip(fits, (("EMOVO-f1", "angry"), ("EMOVO-f1", "fear"), ("EMODB-03", "surprise"), ("EMOVO-m1", "frustrated"))))
        reasons = dict(zip((Path(f).name if "again" not in f else "again" for f in corpus.problems.file), corpus.problems.reason))
        assert "its label 'gioia' is none of angry" in reasons["gioia_EMOVO_m2_b1.wav"] and "a second copy" in reasons["again"] and all("does not fit audio named emotion_dataset_subject" in reasons[f] for f in ("anger_EMOVO_f1.wav", "intro.wav"))
    assert "happy" in set(load_corpus(root, labels={"Gioia": "happy"}).table.emotion)
    with pytest.raises(ValueError, match="expected audio named emotion_dataset_subject_anything.*does not fit"): named_folder(tree(tmp_path/"other", ["a.wav"]))
    with pytest.raises(ValueError, match="unknown emotion 'hapy'"): named_folder(root, {"gioia": "hapy"})


def test_a_folder_of_labels_stays_one_whatever_its_files_are_called(tmp_path):
    root = tree(tmp_path, ["angry/03_01_01_01.wav", "joy/x_y_z_w.wav", "sad/sad_x_1_2.wav"])
    assert load_corpus(root, labels={"joy": "happy"}).table.emotion.tolist() == ["angry", "happy", "sad"]


def test_registry_names_every_reader_with_its_layout():
    assert set(READERS) == set(LAYOUTS) and set(CASES) == set(READERS) - set(GENERIC)
    assert all(READERS[n].__doc__ and "\n" not in READERS[n].__doc__ for n in READERS)


def test_load_corpus_by_name_and_by_path(tmp_path, monkeypatch):
    tree(tmp_path/"emodb", ["wav/03a01Fa.wav", "wav/03a02Wb.wav"], {"my.csv": "file,label\nwav/03a01Fa.wav,Freude\nwav/03a02Wb.wav,angry\n"})
    monkeypatch.setenv("SER_NB_DATA", str(tmp_path))
    assert load_corpus("emodb").table.emotion.tolist() == load_corpus("emodb", tmp_path/"emodb").table.emotion.tolist() == ["happy", "angry"]
    assert load_corpus("emodb", labels={"happy": "excited"}).table.emotion.tolist() == ["excited", "angry"]
    table = tmp_path/"emodb"/"my.csv"
    for corpus, root in ((table, None), ("csv", table)):
        assert load_corpus(corpus, root, {"Freude": "happy"}).table.emotion.tolist() == ["happy", "angry"]
    shutil.copy(table, tmp_path/"elsewhere.csv")
    assert len(load_corpus(tmp_path/"elsewhere.csv", tmp_path/"emodb", {"Freude": "happy"})) == 2
    tree(tmp_path/"sorted", ["angry/a.wav", "sad/b.wav"])
    assert load_corpus(str(tmp_path/"sorted")).table.emotion.tolist() == load_corpus("folder", tmp_path/"sorted").table.emotion.tolist() == ["angry", "sad"]


def test_load_corpus_reads_audformat(tmp_path):
    pytest.importorskip("audformat", reason="needs the extra exchange")
    from ser_nb.data.corpus import to_audformat
    corpus = readers.emodb(tree(tmp_path/"db", ["wav/03a01Fa.wav", "wav/16b10Eb.wav"]))
    to_audformat(corpus, tmp_path/"db")
    for again in (load_corpus(str(tmp_path/"db")), load_corpus("audformat", tmp_path/"db")):
        assert again.table[["speaker", "gender", "emotion"]].equals(corpus.table[["speaker", "gender", "emotion"]])


def test_load_corpus_errors(tmp_path, monkeypatch):
    monkeypatch.delenv("SER_NB_DATA", raising=False)
    with pytest.raises(ValueError, match="unknown corpus 'emovoo': did you mean 'emovo'"): load_corpus("emovoo")
    with pytest.raises(ValueError, match="did you mean 'demo_phone'"): load_corpus("demo_fone")
    with pytest.raises(FileNotFoundError, match=r"SER_NB_DATA is not set; expected the folder \$SER_NB_DATA/iemocap holding Session1/dialog.*-p corpus demo"): load_corpus("iemocap")
    with pytest.raises(FileNotFoundError, match="no such CSV"): load_corpus(tmp_path/"none.csv")
    with pytest.raises(FileNotFoundError, match="expected a CSV, an audformat database"): load_corpus(str(tmp_path/"none"))
    with pytest.raises(ValueError, match="the reader 'csv' needs a root"): load_corpus("csv")
    with pytest.raises(ValueError, match="unknown emotion 'hapy': did you mean 'happy'"): load_corpus("emodb", tree(tmp_path/"e", ["03a01Fa.wav"]), {"hapy": "sad"})


def test_demo_corpora_by_name(tmp_path, monkeypatch):
    import ser_nb.data.demo as demo
    made = readers.emodb(tree(tmp_path, ["03a01Fa.wav"]))
    asked = []
    monkeypatch.setattr(demo, "DEMOS", {n: lambda root=None, n=n: asked.append((n, root)) or made for n in demo.DEMOS})
    assert {"demo", "demo_phone", "demo_unlabelled"} <= set(demo.DEMOS)
    assert load_corpus("demo") is made and load_corpus("demo_unlabelled", tmp_path) is made
    assert asked == [("demo", None), ("demo_unlabelled", tmp_path)]


def expected():
    file = Path(os.environ.get("SER_NB_DATA", ""))/"expected.csv"
    return pd.read_csv(file, dtype=str, keep_default_na=False) if os.environ.get("SER_NB_DATA") and file.is_file() else None


@pytest.mark.parametrize("name", ["emovo", "ravdess", "urdu", "nemo", "librispeech"])
def test_real_corpora_in_every_column(name):
    wanted = expected()
    if wanted is None: pytest.skip("SER_NB_DATA is not set, or holds no expected.csv")
    wanted = wanted[wanted.corpus == name].sort_values("file", ignore_index=True)
    corpus = load_corpus(name)
    columns = ["corpus", "file", "speaker", "gender", "emotion", "sentence"]
    assert len(corpus.problems) == 0
    assert corpus.table[columns].to_numpy(object).tolist() == wanted[columns].to_numpy(object).tolist()
    assert np.abs(corpus.table.duration - wanted.duration.astype(float)).max() <= .01
